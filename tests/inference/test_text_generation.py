"""Text is the original's where the most likely is taken, and else drawn by the seed and the cell alone."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close
from transformers import AutoModelForCausalLM

from state_hf import convert
from state_hf.inference.text_generation import (
    NO_TOKEN,
    Sampling,
    _Choice,
    decoded,
    left_padded,
    load_writer,
    write_text,
    writes_text,
)
from tests.cell2sentence_models import MODEL, TEXT, expected, processor
from tests.geneformer_models import FOLDER as GENEFORMER


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(MODEL).eval()


def prompts(rows=slice(None)):
    stored = expected("embedding_and_generation")
    return {name: stored[name][rows] for name in ("input_ids", "attention_mask")}


def test_greedy_text_is_the_originals(model):
    stored, made = expected("embedding_and_generation"), processor()
    tokens, _ = write_text(model, made.tokenizer, prompts(), max_new_tokens=12)
    wanted = stored["generated_one_by_one"].numpy()
    ended = np.cumsum(wanted == made.tokenizer.eos_token_id, axis=1) > 0
    wanted[ended] = NO_TOKEN
    assert np.array_equal(tokens, wanted)
    plain = made.batch_decode(stored["generated"][:, stored["input_ids"].shape[1] :])
    assert plain == TEXT["generated_text_after_prompt"]
    assert [text.replace("�", "") for text in decoded(made, tokens)] == [
        "".join(filter(str.isprintable, text)).replace("�", "") for text in plain
    ]


def test_what_a_text_is_worth(model):
    made = processor()
    tokens, likely = write_text(
        model, made.tokenizer, prompts(), max_new_tokens=6, sampling=Sampling(2.0), cells=range(3)
    )
    inputs = prompts()
    for cell in range(3):
        new = tokens[cell][tokens[cell] != NO_TOKEN]
        if len(new) < 6:
            new = np.append(new, made.tokenizer.eos_token_id)
        prompt = inputs["input_ids"][cell][inputs["attention_mask"][cell] == 1]
        whole = torch.cat([prompt, torch.from_numpy(new)])[None]
        logits = model(whole, attention_mask=torch.ones_like(whole)).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        assert_close(
            likely[cell], logits[torch.arange(len(new)), new].sum().item(), rtol=0, atol=1e-4, check_dtype=False
        )


def test_draws_do_not_depend_on_the_batch(model):
    tokenizer = processor().tokenizer
    options = {"max_new_tokens": 20, "sampling": Sampling(1.5, 0, 1.0), "seed": 7}
    together, _ = write_text(model, tokenizer, prompts(), cells=[5, 6, 7], **options)
    apart = [write_text(model, tokenizer, prompts([cell]), cells=[5 + cell], **options)[0] for cell in range(3)]
    assert np.array_equal(together, np.concatenate(apart))
    other_seed, _ = write_text(model, tokenizer, prompts(), cells=[5, 6, 7], **{**options, "seed": 8})
    other_cells, _ = write_text(model, tokenizer, prompts(), cells=[6, 7, 8], **options)
    assert not np.array_equal(together, other_seed)
    assert not np.array_equal(together, other_cells)


@pytest.mark.parametrize(
    ("sampling", "kept"),
    [(Sampling(1.0, 0, 1.0), 4), (Sampling(0.5, 0, 1.0), 4), (Sampling(1.0, 2, 1.0), 2), (Sampling(1.0, 0, 0.7), 2)],
)
def test_tokens_have_the_shares_that_the_model_says(sampling, kept):
    number, logits = 20_000, torch.tensor([2.0, 1.0, 0.0, -1.0])
    uniform = np.random.default_rng(0).random((number, 1))
    choice = _Choice(sampling, uniform, 3, [99])
    left = choice(torch.zeros(number, 3, dtype=torch.long), logits.expand(number, -1).clone())
    tokens = left.argmax(dim=1)
    wanted = (logits / sampling.temperature).softmax(0)
    wanted[kept:] = 0
    wanted /= wanted.sum()
    found = torch.bincount(tokens, minlength=4) / number
    # Five standard deviations of a share.
    assert ((found - wanted).abs() <= 5 * (wanted * (1 - wanted) / number).sqrt()).all()
    assert_close(choice.log_probability, logits.log_softmax(0)[tokens])


def test_nothing_counts_behind_the_end():
    choice = _Choice(Sampling(0), np.empty((1, 0)), 1, [1])
    for scores in ([[0.0, 1.0]], [[5.0, 1.0]]):
        choice(torch.zeros(1, 1, dtype=torch.long), torch.tensor(scores))
    assert_close(choice.log_probability, torch.tensor([[0.0, 1.0]]).log_softmax(-1)[:, 1])


@pytest.mark.parametrize("wrong", [{"temperature": -1}, {"top_k": -1}, {"top_p": 0}, {"top_p": 1.1}])
def test_samplings_that_are_none(wrong):
    with pytest.raises(ValueError, match="must not be below 0, and top_p in"):
        Sampling(**wrong)


def test_padding_goes_before():
    inputs = {"input_ids": torch.tensor([[5, 6, 7], [8, 0, 0]]), "attention_mask": torch.tensor([[1, 1, 1], [1, 0, 0]])}
    moved = left_padded(inputs, 9)
    assert moved["input_ids"].tolist() == [[5, 6, 7], [9, 9, 8]]
    assert moved["attention_mask"].tolist() == [[1, 1, 1], [0, 0, 1]]
    assert left_padded({"input_ids": inputs["input_ids"]}, 9)["attention_mask"].all()


def test_characters_that_no_file_holds():
    made = processor()
    ids = np.array(made.tokenizer("B\x00 cell\n\x13")["input_ids"])[None]
    assert decoded(made, ids) == ["B� cell\n�"]


def test_models_that_write_no_text(tmp_path):
    convert(GENEFORMER / "v1" / "model", tmp_path / "bert")
    assert not writes_text(tmp_path / "bert")
    assert writes_text(MODEL)
    with pytest.raises(ValueError, match="is no causal language model, so it writes no text"):
        load_writer(tmp_path / "bert")
    with pytest.raises(ValueError, match="which does not read cells"):
        load_writer(MODEL)
