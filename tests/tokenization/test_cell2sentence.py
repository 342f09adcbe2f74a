"""Sentences, prompts and tokens are those of the original; and what it cannot be asked holds too."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from tests.cell2sentence_models import (
    AS_THE_ORIGINAL,
    COUNTS,
    FOLDER,
    NAMES,
    TEXT,
    TYPES,
    adata,
    processor,
    ragged,
)
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoProcessor, AutoTokenizer, DataCollatorForSeq2Seq, PreTrainedTokenizerFast

from state_hf import Cell2SentenceProcessor, RankExpressionModel, resolve_genes
from state_hf.tokenization.gene_aliases import AliasTable

TASKS = ("cell_type_prediction", "cell_type_generation")


def test_sentences_respect_expression_and_name_every_expressed_gene():
    for sentence, groups in zip(processor(num_genes=100).sentences(COUNTS, NAMES), TEXT["tie_groups"], strict=True):
        words = sentence.split(" ")
        for group in groups:
            assert sorted(words[: len(group)]) == sorted(group)
            words = words[len(group) :]
        assert not words


def test_the_vocabulary_is_in_upper_case_and_names_match_in_any():
    made = processor()
    assert made.genes == list(TEXT["vocabulary"])
    assert made.genes != NAMES
    report = resolve_genes(pd.DataFrame(index=[name.lower() for name in NAMES]), made)
    assert (report.by_symbol, report.missing) == (len(NAMES), ())


def test_names_can_be_kept_as_they_are():
    made = processor(upper_case=False, num_genes=100)
    assert made.genes == NAMES
    assert {name for text in made.sentences(COUNTS, NAMES) for name in text.split()} <= set(NAMES)


def test_ties_are_drawn_by_the_seed_and_the_cell_alone():
    made = processor(num_genes=100)
    whole = made.sentences(COUNTS, NAMES, seed=3)
    order = np.random.default_rng(0).permutation(len(NAMES))
    shuffled = made.sentences(COUNTS[:, order], [NAMES[column] for column in order], seed=3)
    assert shuffled == whole
    assert made.sentences(sp.csc_array(COUNTS), NAMES, seed=3) == whole
    assert [made.sentences(COUNTS[[cell]], NAMES, seed=3, first_cell=cell)[0] for cell in range(len(COUNTS))] == whole
    assert made.sentences(COUNTS, NAMES, seed=4) != whole
    again = made.sentences(np.repeat(COUNTS[:1], 20, axis=0), NAMES, seed=3)
    assert len(set(again)) > 1


def test_ties_have_no_favourites():
    genes = [f"G{number}" for number in range(5)]
    made = Cell2SentenceProcessor(AutoTokenizer.from_pretrained(FOLDER / "model"), genes)
    cells = np.ones((6000, 5))
    first = [sentence.split()[0] for sentence in made.sentences(cells, genes)]
    # Six standard deviations of a share of a fifth.
    assert max(abs(first.count(gene) / 6000 - 0.2) for gene in genes) < 6 * (0.2 * 0.8 / 6000) ** 0.5


def test_the_order_is_that_of_log1p_values_too():
    made = processor(num_genes=100)
    logs = np.log1p(COUNTS / COUNTS.sum(axis=1, keepdims=True) * 1e4)
    assert made.sentences(logs, NAMES, input_type="log1p") == made.sentences(COUNTS, NAMES)


@pytest.mark.parametrize("task", TASKS)
def test_prompts_are_those_of_the_original(task):
    made = processor(templates=FOLDER / "templates.json", **AS_THE_ORIGINAL)
    sentences = [" ".join(text.split()[: made.num_genes]) for text in TEXT["sentences_seed42"][:6]]
    number = len(made.templates.of(task))
    drawn = {seed: made.examples(task, sentences, seed=seed, cell_type=TYPES[:6]) for seed in range(40)}
    for cell, pair in enumerate(zip(TEXT[task]["model_input"], TEXT[task]["response"], strict=True)):
        ways = {pairs[cell] for pairs in drawn.values()}
        assert pair in ways
        assert len(ways) == number


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(("loss_on", "style"), [("response", "response_only"), ("all", "all_tokens")])
def test_training_tokens_and_labels_are_those_of_the_original(task, loss_on, style):
    pairs = list(zip(TEXT[task]["model_input"], TEXT[task]["response"], strict=True))
    encoded = processor(**AS_THE_ORIGINAL).encode_training(pairs, loss_on=loss_on)
    assert [example["input_ids"] for example in encoded] == ragged(task, f"{style}.input_ids")
    assert [example["labels"] for example in encoded] == ragged(task, f"{style}.labels")
    masks = ragged(task, f"{style}.attention_mask")
    if loss_on == "all":
        # The original appends the id of the token where a 1 belongs.
        masks = [[*mask[:-1], 1] for mask in masks]
    assert [example["attention_mask"] for example in encoded] == masks


def test_a_response_of_a_new_model_begins_with_a_space():
    made = processor()
    (example,) = made.encode_training([("Cell type:", "B cell.")])
    learnt = [token for token in example["labels"] if token != -100]
    assert made.decode(learnt) == " B cell.<|endoftext|>"
    assert made.decode(example["input_ids"]) == "Cell type: B cell.<|endoftext|>"


def test_prompts_that_are_too_long_lose_genes_and_never_their_response():
    made = processor(num_genes=20)
    sentences = made.sentences(COUNTS[[0, 5, 6, 8]], NAMES)
    pairs = made.examples("cell_type_prediction", sentences, cell_type="B cell")
    whole = made.encode_training(pairs)
    most = min(len(example["input_ids"]) for example in whole) - 12
    for example, full, sentence in zip(made.encode_training(pairs, max_length=most), whole, sentences, strict=True):
        assert len(example["input_ids"]) <= most
        assert [token for token in example["labels"] if token >= 0] == [token for token in full["labels"] if token >= 0]
        kept = made.decode_cells([example["input_ids"]])[0]
        assert 0 < len(kept) < len(sentence.split())
        assert kept == sentence.split()[: len(kept)]
    with pytest.raises(ValueError, match=r"example 0 has \d+ tokens.* a response is not cut; write fewer genes"):
        made.encode_training([("Cell sentence:", sentences[0])], max_length=10)


def test_examples_go_through_the_librarys_own_collator():
    made = processor()
    encoded = made.encode_training([("Cell type:", "B cell."), ("A longer question: which type?", "monocyte.")])
    batch = DataCollatorForSeq2Seq(made.tokenizer)(encoded)
    assert batch["input_ids"].shape == batch["labels"].shape == batch["attention_mask"].shape
    assert (batch["labels"][batch["attention_mask"] == 0] == -100).all()


def test_encoded_cells_fit_and_are_padded_behind():
    made = processor(num_genes=20)
    whole = made.encode_cells(COUNTS, NAMES)
    lengths = whole["attention_mask"].sum(dim=1)
    assert made.decode_cells(whole["input_ids"]) == [text.split() for text in made.sentences(COUNTS, NAMES)]
    cut = made.encode_cells(COUNTS, NAMES, max_length=20)
    assert cut["input_ids"].shape[1] <= 20
    kept, written = made.decode_cells(cut["input_ids"]), made.decode_cells(whole["input_ids"])
    for short, long, length in zip(kept, written, lengths, strict=True):
        assert short == long[: len(short)]
        assert len(short) < len(long) or length <= 20
    one_by_one = [made.encode_cells(COUNTS[[cell]], NAMES, first_cell=cell, max_length=20) for cell in range(5)]
    for cell, encoding in enumerate(one_by_one):
        number = encoding["input_ids"].shape[1]
        assert torch.equal(encoding["input_ids"][0], cut["input_ids"][cell, :number])
    with pytest.raises(ValueError, match="max_length is 2, but a prompt with one gene has"):
        made.encode_cells(COUNTS, NAMES, max_length=2)


def test_tokens_of_genes():
    made = processor()
    encoding = made.encode_cells(COUNTS[:3], NAMES, task="cell_type_prediction")
    rows = made.gene_rows(encoding)
    genes = made.decode_cells(encoding["input_ids"])
    assert genes == [text.split() for text in made.sentences(COUNTS[:3], NAMES)]
    for cell in range(3):
        ids = encoding["input_ids"][cell]
        for gene in genes[cell]:
            assert made.decode(ids[rows[cell] == made.rows[gene]]).strip() == gene
        words = made.decode(ids[(rows[cell] < 0) & encoding["attention_mask"][cell].bool()])
        assert not set(words.split()) & set(made.genes)


@pytest.mark.parametrize("change", ["delete", "overexpress"])
def test_perturbed_sentences(change):
    made = processor()
    encoding = made.encode_cells(COUNTS[:3], NAMES, task="cell_type_prediction")
    before = made.decode_cells(encoding["input_ids"])
    rows = [[made.rows[genes[2]], -1] for genes in before]
    changed = made.set_genes(encoding, rows, change)
    for old, new in zip(before, made.decode_cells(changed["input_ids"]), strict=True):
        others = old[:2] + old[3:]
        assert new == (others if change == "delete" else [old[2], *others])
    text = made.decode(changed["input_ids"][0], skip_special_tokens=True)
    assert text.startswith("Below stand")
    assert text.endswith("This cell is a")


def test_bad_changes():
    made = processor()
    encoding = made.encode_cells(COUNTS[:1], NAMES)
    with pytest.raises(ValueError, match=r"change is 'inhibit'; it has to be 'delete' or 'overexpress'"):
        made.set_genes(encoding, [0], "inhibit")
    with pytest.raises(ValueError, match="rows goes from 99 to 99; there are 26 genes"):
        made.set_genes(encoding, [99], "delete")
    with pytest.raises(ValueError, match="cell 0 has no gene left"):
        made.set_genes(encoding, list(range(26)), "delete")


def test_saved_and_loaded(tmp_path):
    line = RankExpressionModel(-0.7, 2.0)
    table = AliasTable("alias\tsymbol\tkind\nENSG00000000001\tACTB\tensembl_id\n")
    own = {"mood": {"model_input": ["{cell_sentence}?"], "response": ["{mood}."]}}
    made = processor(templates=own, labels=["B cell", "T cell"], expression=line, aliases=table, cell_pooling="last")
    made.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert type(loaded) is Cell2SentenceProcessor
    assert {**loaded.to_dict(), "auto_map": made.auto_map} == made.to_dict()
    assert (loaded.genes, loaded.expression, loaded.templates.given) == (made.genes, line, own)
    assert resolve_genes(pd.DataFrame(index=["ENSG00000000001.4"]), loaded).by_id == 1
    # The language model's own tokenizer is what anybody else finds.
    assert not isinstance(AutoTokenizer.from_pretrained(tmp_path), Cell2SentenceProcessor)
    changed = AutoProcessor.from_pretrained(tmp_path, num_genes=3, expression=RankExpressionModel(-1.0, 3.0))
    assert (changed.num_genes, changed.expression.slope, changed.labels) == (3, -1.0, made.labels)
    assert changed.templates.given == own
    # What is the processor's own is not kept by the tokenizer, too.
    changed.save_pretrained(tmp_path / "changed")
    assert "num_genes" not in (tmp_path / "changed" / "tokenizer_config.json").read_text()
    assert AutoProcessor.from_pretrained(tmp_path / "changed").expression == changed.expression


def test_few_shot_prompts():
    made = processor()
    sentences = made.sentences(COUNTS[:3], NAMES)
    solved = made.examples("cell_type_prediction", sentences[:2], cell_type=TYPES[:2])
    (prompt,) = made.prompts("cell_type_prediction", sentences[2:], examples=solved)
    asked = [question for question, _ in solved]
    assert (
        prompt
        == f"{asked[0]} {TYPES[0]}.\n\n{asked[1]} {TYPES[1]}.\n\n"
        + made.prompts("cell_type_prediction", sentences[2:])[0]
    )


def test_own_templates_and_what_is_wrong_with_them(tmp_path):
    made = processor(templates={"age": {"model_input": ["{cell_sentence} of {donor}: age?"], "response": ["{age}"]}})
    assert made.examples("age", ["A B"], donor="d1", age=[40]) == [("A B of d1: age?", "40")]
    with pytest.raises(ValueError, match=r"needs 'donor', which is not given: pass donor=\.\.\."):
        made.prompts("age", ["A B"])
    with pytest.raises(ValueError, match=r"there is no task 'cell_type_predict': did you mean 'cell_type_prediction'"):
        made.prompts("cell_type_predict", ["A B"])
    with pytest.raises(ValueError, match="are of 1 and 2 cells"):
        made.prompts("age", ["A B"], donor=["d1", "d2"])
    for wrong, said in (
        ({"x": {"model_input": ["a"]}}, "it needs texts in model_input and response"),
        ({"x": {"model_input": ["a"] * 3, "response": ["b"] * 2}}, "3 prompts and 2 responses"),
        ({"x": {"model_input": ["{0}"], "response": ["b"]}}, "a slot is a name in braces"),
    ):
        with pytest.raises(ValueError, match=said):
            processor(templates=wrong)
    (tmp_path / "wrong.json").write_text('{"x": "y"}')
    with pytest.raises(ValueError, match=r"wrong\.json is not of the form"):
        processor(templates=tmp_path / "wrong.json")


def test_bad_input():
    made = processor()
    with pytest.raises(ValueError, match="Only 0 of the dataset's 2 genes are among the vocabulary's 26"):
        made.sentences(COUNTS[:, :2], ["X1", "X2"])
    empty = COUNTS.copy()
    empty[3] = 0
    with pytest.raises(ValueError, match=r"1 of 30 cells express no gene of the vocabulary.* the first is cell 3"):
        made.sentences(empty, NAMES)
    scaled = adata()
    scaled.X = np.log1p(scaled.X)
    with pytest.raises(ValueError, match="said to be counts, but they look like log1p"):
        made.sentences(scaled)
    with pytest.raises(ValueError, match=r"the genes Actb and ACTB are both written ACTB"):
        Cell2SentenceProcessor(made.tokenizer, ["Actb", "ACTB"])
    with pytest.raises(ValueError, match=r"has no genes\.txt, which names the genes"):
        Cell2SentenceProcessor(made.tokenizer)
    with pytest.raises(ValueError, match="num_genes is 0"):
        processor(num_genes=0)
    with pytest.raises(ValueError, match="num_genes is 0"):
        made.sentences(COUNTS, NAMES, num_genes=0)
    with pytest.raises(ValueError, match="cell_pooling is 'first'"):
        processor(cell_pooling="first")


def with_a_beginning() -> Cell2SentenceProcessor:
    """A processor on a tokenizer of another make: a token before every text, spaces that are letters, other padding."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    tokenizer.pre_tokenizer = pre_tokenizers.Split("\u2581", "merged_with_next")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=[*special, *(f"<0x{byte:02X}>" for byte in range(256))], show_progress=False
    )
    tokenizer.train_from_iterator(TEXT["sentences_seed42"], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    names = {f"{name.strip('<>')}_token": name for name in special}
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, padding_side="left", **names)
    return Cell2SentenceProcessor(made, NAMES, num_genes=7)


def test_tokenizers_of_another_make():
    made = with_a_beginning()
    sentences = [text.split() for text in made.sentences(COUNTS, NAMES)]
    encoding = made.encode_cells(COUNTS, NAMES, task="cell_type_prediction")
    assert (encoding["input_ids"][:, 0] == 2).all()
    assert made.decode_cells(encoding["input_ids"]) == sentences
    rows = made.gene_rows(encoding)
    for cell, genes in enumerate(sentences):
        for gene in genes:
            assert made.decode(encoding["input_ids"][cell][rows[cell] == made.rows[gene]]).strip() == gene
    changed = made.set_genes(encoding, [made.rows["PPBP"]], "delete")["input_ids"]
    assert ((changed == 2).sum(dim=1) == 1).all()
    assert made.decode_cells(changed) == [[gene for gene in genes if gene != "PPBP"] for genes in sentences]
    (example,) = made.encode_training([("Cell type:", "B cell.")])
    assert (example["input_ids"].count(2), example["input_ids"][-1]) == (1, 1)
    # A template may have special tokens of its own beside the sentence, which stay where they are.
    chat = {"chat": {"model_input": ["<unk>{cell_sentence}<unk>Which?"], "response": [""]}}
    talking = Cell2SentenceProcessor(made.tokenizer, NAMES, templates=chat, num_genes=7, task="chat")
    asked = talking.encode_cells(COUNTS, NAMES)
    assert talking.decode_cells(asked["input_ids"]) == sentences
    without = talking.set_genes(asked, [made.rows["PPBP"]], "delete")["input_ids"]
    assert ((without == 3).sum(dim=1) == 2).all()
    prompts = made.encode_prompts(["Cell type:", "A longer question: which cell type is it?"])
    assert prompts["input_ids"][0, 0] == 0
    assert prompts["attention_mask"][0, 0] == 0
