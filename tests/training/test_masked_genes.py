"""Masked-gene pretraining: which genes are hidden, the loss of the original, resuming, and processes."""

import json
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from tests.corpus_files import GENES, cells, write_corpus
from tests.geneformer_models import FOLDER, expected
from tests.launched import finish
from torch.testing import assert_close
from transformers import BertForMaskedLM, set_seed

from state_hf import CellCorpus, GeneformerTokenizer, convert
from state_hf.configuration.geneformer import new_bert_config
from state_hf.tokenization.geneformer import V2_SPECIAL_IDS
from state_hf.training.masked_genes import (
    MaskedGenes,
    MaskedGeneTrainer,
    MaskedGeneTrainingArguments,
    masked_gene_loss,
)

ORDER = {"block_cells": 8, "window_cells": 24, "lanes": 4, "lane_run": 4, "seed": 5}
MEDIANS = {gene: 1.0 + 0.01 * row for row, gene in enumerate(GENES)}


def tokenizer(**changes) -> GeneformerTokenizer:
    return GeneformerTokenizer(GENES, MEDIANS, **{"special_ids": V2_SPECIAL_IDS, "model_max_length": 24, **changes})


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"))


def small_model(**changes) -> BertForMaskedLM:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    fields = {**sizes, "max_position_embeddings": 24, "initializer_range": 0.2, **changes}
    return BertForMaskedLM(new_bert_config(vocab_size=len(GENES) + 4, pad_token_id=0, **fields))


def make_trainer(folder, manifest, *, fields=None, **changes) -> MaskedGeneTrainer:
    set_seed(5)
    options = {
        "max_steps": 8, "logging_steps": 1, "save_steps": 4, "report_to": "none", "use_cpu": True, "disable_tqdm": True,
        "per_device_train_batch_size": 16, "per_device_eval_batch_size": 16, "seed": 5, "learning_rate": 3e-3,
    }  # fmt: skip
    corpus = CellCorpus(manifest, tokenizer(), **ORDER)
    args = MaskedGeneTrainingArguments(output_dir=str(folder), **{**options, **changes})
    return MaskedGeneTrainer(small_model(**fields or {}), args, tokenizer=tokenizer(), train_dataset=corpus)


def curve(trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


# Which genes are hidden


def test_genes_are_hidden_as_often_as_published(manifest):
    corpus = CellCorpus(manifest, tokenizer(), **ORDER)
    collator = MaskedGenes(tokenizer(), seed=3)
    plain = MaskedGenes(tokenizer(), seed=3, mask_share=1e-9)
    counts = np.zeros(5)
    for position in range(0, 20 * len(corpus), 8):
        batch, untouched = (made(corpus.__getitems__(range(position, position + 8))) for made in (collator, plain))
        predicted = batch["labels"] != -100
        ids = torch.where(untouched["labels"] != -100, untouched["labels"], untouched["input_ids"])
        is_gene = ids >= 4
        assert not (predicted & ~is_gene).any()
        assert torch.equal(batch["labels"][predicted], ids[predicted])
        assert torch.equal(batch["input_ids"][~predicted], ids[~predicted])
        now = batch["input_ids"][predicted]
        hidden, same = now == 1, now == ids[predicted]
        counts += [is_gene.sum(), predicted.sum(), hidden.sum(), same.sum(), (~hidden & ~same).sum()]
    genes, predicted, hidden, same, replaced = counts
    # Four standard deviations of a share of so many draws; a random token is the same, or the mask, 2 in 44 times.
    # The cell that chance takes nothing of gives one gene: here every cell has some 20.
    error = 4 * np.sqrt(0.25 / predicted)
    none = 0.85 ** (genes / (20 * len(corpus)))
    assert abs(predicted / genes - 0.15) < 4 * np.sqrt(0.15 * 0.85 / genes) + 2 * none * 20 * len(corpus) / genes
    assert abs(hidden / predicted - (0.8 + 0.1 / 44)) < error
    assert abs(same / predicted - (0.1 + 0.1 / 44)) < error
    assert abs(replaced / predicted - 0.1 * 42 / 44) < error


def test_what_a_cell_hides_depends_on_its_position_alone(manifest):
    corpus, collator = CellCorpus(manifest, tokenizer(), **ORDER), MaskedGenes(tokenizer(), seed=1)
    rows = {}
    for at in range(0, 64, 16):
        part = corpus.__getitems__(range(at, at + 16))
        order = [position for cells_ in part for position in cells_.positions.tolist()]
        batch = collator(part)
        rows |= {
            position: (ids[mask == 1].tolist(), labels[mask == 1].tolist())
            for position, ids, mask, labels in zip(
                order, batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True
            )
        }
    for position in (0, 17, 63):
        alone = collator(corpus[position])
        assert rows[position] == (alone["input_ids"][0].tolist(), alone["labels"][0].tolist())
    again = collator(corpus.__getitems__(range(len(corpus), len(corpus) + 16)))
    assert not torch.equal(again["input_ids"], collator(corpus.__getitems__(range(16)))["input_ids"])


def test_a_cell_always_predicts_a_gene_and_one_without_any_is_left_out(tmp_path, caplog):
    counts = np.zeros((8, len(GENES)), np.float32)
    counts[:, 0] = 3
    counts[[1, 4], 0] = 0
    data = ad.AnnData(sp.csr_matrix(counts))
    data.var_names = GENES
    data.write_h5ad(tmp_path / "one.h5ad")
    (tmp_path / "corpus.csv").write_text("path\none.h5ad\n")
    corpus = CellCorpus(tmp_path / "corpus.csv", tokenizer(), block_cells=8, window_cells=8, lanes=1, lane_run=8)
    batch = MaskedGenes(tokenizer())(corpus.__getitems__(range(8)))
    assert batch["labels"].tolist() == [[-100, 4, -100]] * 6
    empty = [cells_ for cells_ in (corpus[at] for at in range(8)) if not cells_[0].counts.nnz]
    with pytest.raises(ValueError, match="no cell of a batch has a gene of the vocabulary"):
        MaskedGenes(tokenizer())(empty[0])


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda: MaskedGenes(tokenizer(), mask_share=1.0), r"mask_share is 1\.0"),
        (lambda: MaskedGenes(tokenizer(special_ids={"<pad>": 0})), "has no <mask> to hide genes behind"),
    ],
)
def test_what_cannot_be_hidden_is_said(made, words):
    with pytest.raises(ValueError, match=words):
        made()


# The loss


@pytest.mark.parametrize("release", ["v1", "v2"])
def test_the_loss_and_its_gradients_are_those_of_the_original(release, tmp_path):
    """Through the trainer, which computes logits of predicted genes alone."""
    stored = expected(f"{release}_model")
    convert(FOLDER / release / "model", tmp_path / "model")
    model = BertForMaskedLM.from_pretrained(tmp_path / "model").eval()
    arguments = MaskedGeneTrainingArguments(output_dir=str(tmp_path / "run"), use_cpu=True, report_to="none")
    words = GeneformerTokenizer.from_pretrained(tmp_path / "model")
    trainer = MaskedGeneTrainer(model, arguments, tokenizer=words)
    inputs = {"input_ids": stored["masked_input_ids"], "attention_mask": stored["attention_mask"]}
    loss, outputs = trainer.compute_loss(model, {**inputs, "labels": stored["labels"]}, return_outputs=True)
    assert_close(loss, stored["loss"], rtol=0, atol=2e-5)
    assert_close(outputs["logits"], stored["logits"][stored["labels"] != -100], rtol=0, atol=2e-5)
    loss.backward()
    weights = dict(model.named_parameters())
    for name, gradient in stored.items():
        if name.startswith("grad."):
            found = weights[name.removeprefix("grad.")].grad
            assert (found - gradient).norm() <= 1e-4 * gradient.norm()
    assert_close(masked_gene_loss(model(**inputs), stored["labels"]), stored["loss"], rtol=0, atol=2e-5)


# Training


def test_resuming_goes_on_to_the_bit(tmp_path, manifest):
    whole = make_trainer(tmp_path, manifest, max_steps=15, save_steps=6, average_decay=0.9)
    whole.train()
    resumed = make_trainer(tmp_path, manifest, max_steps=15, save_steps=100, average_decay=0.9)
    resumed.train(str(tmp_path / "checkpoint-6"))
    assert curve(resumed) == curve(whole)
    for (name, value), twin in zip(whole.model.state_dict().items(), resumed.model.state_dict().values(), strict=True):
        assert torch.equal(value, twin), name


STEADY = {"fields": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}}


def test_two_batches_of_a_step_are_one_batch_of_both(tmp_path, manifest):
    one = make_trainer(tmp_path / "a", manifest, **STEADY)
    two = make_trainer(tmp_path / "b", manifest, per_device_train_batch_size=8, gradient_accumulation_steps=2, **STEADY)
    one.train()
    two.train()
    np.testing.assert_allclose(curve(one), curve(two), rtol=1e-4)


_SCRIPT = """
import json, os
from tests.training.test_masked_genes import STEADY, curve, make_trainer
folder, manifest = sys.argv[1:3]
trainer = make_trainer(folder, manifest, per_device_train_batch_size=8, save_steps=4, **STEADY)
trainer.train()
if trainer.is_world_process_zero():
    json.dump(curve(trainer), open(folder + "/curve.json", "w"))
trainer.accelerator.wait_for_everyone()
os._exit(0)
"""


def test_two_processes_follow_the_curve_of_one_which_goes_on_with_their_checkpoint(tmp_path, manifest):
    one = make_trainer(tmp_path / "one", manifest, **STEADY)
    one.train()
    script, folder = tmp_path / "training.py", tmp_path / "two"
    script.write_text(f"import sys\nsys.path[:0] = {[str(Path(__file__).parents[2]), *sys.path]!r}\n{_SCRIPT}")
    folder.mkdir()
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    finish([*launcher, str(script), str(folder), str(manifest)])
    np.testing.assert_allclose(json.loads((folder / "curve.json").read_text()), curve(one), rtol=1e-4)
    resumed = make_trainer(folder, manifest, save_steps=100, **STEADY)
    resumed.train(str(folder / "checkpoint-4"))
    np.testing.assert_allclose(curve(resumed), curve(one), rtol=1e-4)


def test_it_learns_which_genes_go_together(tmp_path):
    """Of cells of two types, a hidden gene is guessed better than by how often each is among the predicted."""
    data = cells(0, 400, GENES)
    data.write_h5ad(tmp_path / "cells.h5ad")
    (tmp_path / "corpus.csv").write_text("path\ncells.h5ad\n")
    trainer = make_trainer(
        tmp_path / "run", tmp_path / "corpus.csv", max_steps=200, learning_rate=5e-3, save_steps=1000,
        per_device_train_batch_size=32, logging_steps=100,
        fields={"initializer_range": 0.05, "hidden_size": 32, "intermediate_size": 64},
    )  # fmt: skip
    trainer.train()
    batches = [
        trainer.data_collator(trainer.train_dataset.__getitems__(range(at, at + 100)))
        for at in range(10**6, 10**6 + 400, 100)
    ]
    labels = torch.cat([batch["labels"][batch["labels"] >= 0] for batch in batches])
    shares = torch.bincount(labels, minlength=len(GENES) + 4).float() / len(labels)
    by_share = -(shares[labels].log()).mean()
    trainer.model.eval()
    with torch.no_grad():
        losses = [
            masked_gene_loss(trainer.model(**{n: b[n] for n in ("input_ids", "attention_mask")}), b["labels"])
            for b in batches
        ]
    assert torch.stack(losses).mean() < by_share - 0.4
