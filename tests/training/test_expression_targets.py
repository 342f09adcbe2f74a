"""The pretraining collator: what is hidden, what is to be predicted."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from tests.corpus_files import GENES, tokenizer, write_corpus

from state_hf import CellCorpus, ExpressionTargets
from state_hf.data.corpus.cell_corpus import CorpusCells
from state_hf.data.corpus.corpus_files import IndexedFile
from state_hf.data.corpus.corpus_manifest import CorpusFile

CLASSES = {"one": 0, "two": 1, "three": 2}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return CellCorpus(write_corpus(tmp_path_factory.mktemp("corpus")), tokenizer(), block_cells=8, window_cells=24)


def one_file(counts, genes=GENES, *, scale="counts", start=0) -> list[CorpusCells]:
    matrix = sp.csr_array(np.asarray(counts, dtype=np.float32))
    source = IndexedFile(
        CorpusFile("memory", "one", scale=scale), len(counts), tokenizer().gene_index.report(genes, column="index")
    )
    return [CorpusCells(source, matrix, np.arange(len(counts)), np.arange(start, start + len(counts)))]


def collate(cells, **changes):
    fields = {"expressed": 6, "unexpressed": 5, "shared": 4, "dataset_classes": CLASSES, "seed": 2}
    return ExpressionTargets(tokenizer(), **{**fields, **changes})(cells)


def expression(corpus, part, row) -> np.ndarray:
    """log1p expression of one cell over the vocabulary, NaN where the file lacks the gene."""
    out = np.full(len(GENES), np.nan)
    columns = part.source.genes.columns
    values = part.counts[[row]].toarray()[0]
    out[columns[columns >= 0]] = values[columns >= 0]
    return np.log1p(out) if part.source.file.scale == "counts" else out


def test_labels_are_the_log_expression_of_the_targets(corpus):
    parts = corpus.__getitems__(range(30))
    batch = collate(parts, hidden_share=(0.2, 0.6))
    row = 0
    for part in parts:
        for cell in range(len(part.cells)):
            truth = expression(corpus, part, cell)
            genes = torch.cat([batch["target_ids"][row], batch["shared_target_ids"]]).numpy()
            labels = batch["labels"][row].numpy()
            np.testing.assert_allclose(labels, np.nan_to_num(truth[genes], nan=-100), rtol=1e-6)
            assert (labels[:6] > 0).all()
            assert (labels[6:11] == 0).all()
            assert batch["dataset_labels"][row] == CLASSES[part.source.file.dataset]
            row += 1
    assert row == len(batch["labels"]) == 30


def test_hidden_genes_are_the_first_targets_and_not_in_the_sentence():
    counts = np.zeros((1, 40))
    counts[0, :10] = np.arange(1, 11)
    batch = collate(one_file(counts), hidden_share=(0.5, 0.5), expressed=10)
    seen = set(batch["input_ids"][0, batch["attention_mask"][0] == 1].tolist()) - {len(GENES)}
    targets = batch["target_ids"][0, :10].tolist()
    assert sorted(targets) == list(range(10))
    assert seen == set(targets[5:])
    shown = batch["expression"][0].sum().item()
    assert shown == pytest.approx(100, rel=1e-5)


def test_without_hiding_the_sentence_is_the_tokenizers():
    counts = np.random.default_rng(0).poisson(1.0, (6, 40))
    batch = collate(one_file(counts))
    expected = tokenizer().encode_cells(sp.csr_array(counts), GENES, seed=2)
    torch.testing.assert_close(batch["input_ids"], expected["input_ids"])
    torch.testing.assert_close(batch["expression"], expected["expression"])


def test_a_cell_gets_the_same_targets_in_any_batch_and_others_in_the_next_pass(corpus):
    together, again = collate(corpus.__getitems__(range(12))), collate(corpus.__getitems__(range(175, 175 + 41)))
    for start in (0, 5):
        alone = collate(corpus.__getitems__([start]))
        assert any(torch.equal(row, alone["target_ids"][0]) for row in together["target_ids"])
        assert not any(torch.equal(row, alone["target_ids"][0]) for row in again["target_ids"])


def test_shared_genes_change_with_the_step():
    counts = np.ones((2, 40))
    first = collate(one_file(counts, start=0), cells_per_step=4)["shared_target_ids"]
    assert torch.equal(first, collate(one_file(counts, start=2), cells_per_step=4)["shared_target_ids"])
    assert not torch.equal(first, collate(one_file(counts, start=4), cells_per_step=4)["shared_target_ids"])


def test_the_originals_unexpressed_genes_have_a_log_below_1():
    counts = np.full((1, 40), 9.0)
    counts[0, :6] = 1.0
    batch = collate(one_file(counts), unexpressed_genes="below_1", unexpressed=6)
    assert sorted(batch["target_ids"][0, 6:].tolist()) == list(range(6))
    assert batch["labels"][0, 6:12].tolist() == pytest.approx([np.log(2)] * 6)


def test_few_genes_are_drawn_again_and_empty_cells_give_no_nan():
    counts = np.zeros((2, 40))
    counts[0, 7] = 3
    batch = collate(one_file(counts), hidden_share=(0.9, 0.9))
    assert batch["target_ids"][0, :6].tolist() == [7] * 6
    assert (batch["labels"][1, :11] == 0).all()
    assert all(torch.isfinite(value.float()).all() for value in batch.values())


def test_unmeasured_genes_are_zeros_where_the_loss_needs_a_table(corpus):
    parts = corpus.__getitems__(range(30))
    unlabelled, zeros = (collate(parts, unmeasured=choice, shared=40)["labels"] for choice in ("unlabelled", "zero"))
    assert (unlabelled == -100).any()
    torch.testing.assert_close(zeros, unlabelled.clamp(min=0))


def test_views_keep_the_first_whole_and_thin_the_others():
    counts = np.random.default_rng(1).poisson(20.0, (50, 40))
    batch = collate(one_file(counts), views=3, expressed=40, unexpressed=0, shared=0, lowest_share=0.3)
    labels = batch["labels"].reshape(50, 3, 40)
    molecules = torch.expm1(labels).sum(-1)
    genes = batch["target_ids"]
    torch.testing.assert_close(
        torch.expm1(labels[:, 0]), torch.from_numpy(counts).float().gather(1, genes), rtol=1e-4, atol=1e-4
    )
    shares = molecules[:, 1:] / molecules[:, :1]
    assert shares.min() > 0.29
    assert shares.max() < 1.01
    assert 0.55 < shares.mean() < 0.75
    assert len(batch["input_ids"]) == len(batch["dataset_labels"]) == 150


def test_wrong_arguments_are_refused(corpus):
    with pytest.raises(ValueError, match="hidden_share"):
        collate([], hidden_share=(0.5, 0.2))
    with pytest.raises(ValueError, match=r"'one' .* has no class"):
        collate(one_file(np.ones((1, 40))), dataset_classes={"two": 0})
    with pytest.raises(ValueError, match="holds log1p values"):
        collate(one_file(np.ones((1, 40)), scale="log1p"), views=2)
    with pytest.raises(ValueError, match="memory, of the cells 0"):
        collate(one_file(np.full((1, 40), np.nan)))
