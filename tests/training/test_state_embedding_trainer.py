"""Pretraining of State Embedding models: steps, averages, resuming, processes."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.corpus_files import small_embedding_model, tokenizer, write_corpus
from transformers import set_seed

from state_hf import CellCorpus, StateEmbeddingTrainer, StateEmbeddingTrainingArguments
from state_hf.training.checkpoints import last_complete_checkpoint
from state_hf.training.dataset_classes import extend_datasets
from state_hf.training.state_embedding_trainer import PositionSampler
from state_hf.training.throughput import training_flops
from state_hf.training.weight_average import WeightAverage

ORDER = {"block_cells": 8, "window_cells": 24, "lanes": 4, "lane_run": 4, "seed": 5}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"))


def make_trainer(folder, manifest, *, model=None, fields=None, evaluated=False, **changes) -> StateEmbeddingTrainer:
    set_seed(5)
    options = {
        "max_steps": 8, "logging_steps": 1, "save_steps": 4, "report_to": "none", "use_cpu": True, "disable_tqdm": True,
        "per_device_train_batch_size": 16, "per_device_eval_batch_size": 16, "seed": 5, "expressed_targets": 6,
        "unexpressed_targets": 4, "shared_targets": 4, "learning_rate": 3e-3,
    }  # fmt: skip
    corpus = CellCorpus(manifest, tokenizer(), **ORDER)
    rest, held = corpus.split(0.2) if evaluated else (corpus, None)
    return StateEmbeddingTrainer(
        model or small_embedding_model(**fields or {}),
        StateEmbeddingTrainingArguments(output_dir=str(folder), **{**options, **changes}),
        tokenizer=tokenizer(),
        train_dataset=rest,
        eval_dataset=held,
    )


def curve(trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def assert_same_weights(one, other):
    for (name, value), twin in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(value, twin), name


def test_steps_take_every_cell_once_a_pass():
    sampler = PositionSampler(50, cells_per_step=8)
    drawn = []
    for epoch in range(4):
        sampler.set_epoch(epoch)
        drawn += list(sampler)
        assert len(sampler) == 48
    assert drawn == list(range(192))
    with pytest.raises(ValueError, match="lower the batch"):
        PositionSampler(7, cells_per_step=8)


@pytest.mark.parametrize("stop", [4, 13, 15])
def test_resuming_goes_on_to_the_bit(tmp_path, manifest, stop):
    # An epoch has 13 steps: the stops are in the middle of the first, at its end, and in the second.
    whole = make_trainer(tmp_path, manifest, max_steps=17, save_steps=stop, average_decay=0.9)
    whole.train()
    resumed = make_trainer(tmp_path, manifest, max_steps=17, save_steps=100, average_decay=0.9)
    resumed.train(str(tmp_path / f"checkpoint-{stop}"))
    assert curve(resumed) == curve(whole)
    assert_same_weights(whole.model, resumed.model)
    for name, value in whole.average.weights.items():
        assert torch.equal(value, resumed.average.weights[name]), name


@pytest.mark.parametrize("changes", [{"activation_checkpointing": True}, {"bf16": True}, {"dataloader_num_workers": 1}])
def test_other_ways_of_computing_give_the_same_curve(tmp_path, manifest, changes):
    fields = {"hidden_dropout_prob": 0.0}
    plain = make_trainer(tmp_path / "a", manifest, fields=fields, max_steps=5)
    other = make_trainer(tmp_path / "b", manifest, fields=fields, max_steps=5, **changes)
    plain.train()
    other.train()
    np.testing.assert_allclose(curve(other), curve(plain), rtol=0.05 if "bf16" in changes else 1e-5)


def test_accumulating_two_batches_is_one_batch_of_both(tmp_path, manifest):
    fields = {"hidden_dropout_prob": 0.0, "expression_loss": "energy"}
    one = make_trainer(tmp_path / "a", manifest, fields=fields)
    two = make_trainer(
        tmp_path / "b", manifest, fields=fields, per_device_train_batch_size=8, gradient_accumulation_steps=2
    )
    one.train()
    two.train()
    np.testing.assert_allclose(curve(one), curve(two), rtol=1e-4)


def test_the_schedule_warms_up_and_falls_to_a_floor(tmp_path, manifest):
    trainer = make_trainer(tmp_path, manifest, max_steps=20, warmup_steps=0.2)
    trainer.train()
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
    assert max(rates) == pytest.approx(3e-3)
    assert rates.index(max(rates)) == 4
    assert rates[-1] == pytest.approx(0.3 * 3e-3, rel=0.03)


def test_what_is_logged_and_evaluated(tmp_path, manifest):
    trainer = make_trainer(tmp_path, manifest, evaluated=True, eval_strategy="steps", eval_steps=4, average_decay=0.5)
    seen = []

    def probe(model):
        seen.append(model.gene_table.weight.detach().clone())
        return {"probe_accuracy": 0.5}

    trainer.compute_embedding_metrics = probe
    trainer.train()
    step = next(entry for entry in trainer.state.log_history if "loss" in entry)
    assert {
        "expression_loss",
        "dataset_loss",
        "cells_per_second",
        "tokens_per_second",
        "flops_utilisation",
    } <= step.keys()
    assert step["loss"] == pytest.approx(step["expression_loss"] + step["dataset_loss"], rel=1e-4)
    evaluation = next(entry for entry in trainer.state.log_history if "eval_loss" in entry)
    assert {
        "eval_expression_loss",
        "eval_pearson_genes",
        "eval_pearson_cells",
        "eval_probe_accuracy",
    } <= evaluation.keys()
    # The probe saw the averaged weights; the model has its own again.
    assert torch.equal(seen[-1], trainer.average.weights["state_embedding.gene_table.weight"])
    assert not torch.equal(seen[-1], trainer.model.state_embedding.gene_table.weight)


@pytest.mark.parametrize("loss", ["tabular", "bce", "kl"])
def test_every_loss_falls(tmp_path, manifest, loss):
    trainer = make_trainer(
        tmp_path, manifest, max_steps=16, learning_rate=1e-2,
        fields={"expression_loss": loss, "hidden_dropout_prob": 0.0, "dataset_loss_weight": 0.0},
    )  # fmt: skip
    trainer.train()
    losses = curve(trainer)
    assert np.isfinite(losses).all()
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:3])


def test_the_average_by_hand():
    model = torch.nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(0.0)
    average = WeightAverage(model, decay=0.25)
    expected = 0.0
    for step in range(1, 5):
        model.weight.data.fill_(float(step))
        average.update(model)
        decay = min(0.25, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    assert average.weights["weight"].item() == pytest.approx(expected)
    with average.in_place(model):
        assert model.weight.item() == pytest.approx(expected)
    assert model.weight.item() == 4.0


def test_new_datasets_leave_the_old_logits_as_they_are(tmp_path):
    model = small_embedding_model()
    hidden = torch.randn(4, model.config.output_dim)
    before = model.eval().dataset_classifier(hidden)
    assert extend_datasets(model, ["two", "four", "five", "four"]) == ["four", "five"]
    after = model.eval().dataset_classifier(hidden)
    torch.testing.assert_close(after[:, :3], before)
    assert model.config.dataset_classes == {"one": 0, "two": 1, "three": 2, "four": 3, "five": 4}
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    torch.testing.assert_close(loaded.dataset_classifier(hidden).shape, torch.Size([4, 5]))


def test_the_operations_of_a_step_by_hand():
    config = small_embedding_model(use_dataset_token=False, dataset_classes={}).config
    length, hidden, inner, genes = 20, 16, 16, 40
    encoder = genes * 8 * hidden + 2 * length * 4 * (1 + 10)
    only_layer = 2 * (2 * length * hidden**2 + 2 * hidden**2 + 2 * hidden * inner + 2 * length * hidden)
    width = hidden + 8 + 1
    decoder = 2 * 7 * (8 * hidden + 2 * 4 * width**2)
    expected = 6 * (encoder + only_layer + decoder)
    assert training_flops(config, cells=2, tokens=length, targets=7) == pytest.approx(expected)


_SCRIPT = """
import json
from tests.training.test_state_embedding_trainer import curve, make_trainer
folder, manifest, resume, steps, batch, collator_log = sys.argv[1:7]
trainer = make_trainer(folder, manifest, fields={"hidden_dropout_prob": 0.0}, max_steps=int(steps), save_steps=2,
                       per_device_train_batch_size=int(batch), save_total_limit=3, average_decay=0.9)
collate = trainer.data_collator
def logged(cells):
    with open(collator_log, "a") as log:
        log.write(" ".join(str(p) for part in cells for p in part.positions.tolist()) + "\\n")
    return collate(cells)
trainer.data_collator = logged
trainer.train(resume_from_checkpoint=True if resume == "resume" else None)
if trainer.is_world_process_zero():
    json.dump(curve(trainer), open(folder + "/curve.json", "w"))
"""


@pytest.fixture
def script(tmp_path) -> Path:
    path = tmp_path / "training.py"
    path.write_text(f"import sys\nsys.path[:0] = {[str(Path(__file__).parents[2]), *sys.path]!r}\n{_SCRIPT}")
    return path


def positions(log: Path) -> list[list[int]]:
    return [[int(word) for word in line.split()] for line in log.read_text().splitlines()]


def test_killed_training_goes_on_without_repeating_or_skipping_a_cell(tmp_path, script, manifest):
    folder, log, again = tmp_path / "run", tmp_path / "log", tmp_path / "again"
    command = [sys.executable, str(script), str(folder), str(manifest)]
    process = subprocess.Popen([*command, "start", "5000", "16", str(log)], stderr=subprocess.DEVNULL)
    while last_complete_checkpoint(folder) is None:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    reached = int(Path(last_complete_checkpoint(folder)).name.split("-")[1])
    subprocess.run([*command, "resume", str(reached + 4), "16", str(again)], check=True, capture_output=True)
    assert len(json.loads((folder / "curve.json").read_text())) == reached + 4
    seen = [position for batch in positions(log)[:reached] + positions(again) for position in batch]
    # Batches are collated one ahead.
    assert sorted(seen)[: 16 * (reached + 4)] == list(range(16 * (reached + 4)))


def test_two_processes_follow_the_curve_of_one(tmp_path, script, manifest):
    curves = []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        folder.mkdir()
        launcher = [sys.executable]
        if processes == 2:
            launcher += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
        words = [str(script), str(folder), str(manifest), "start", "15", str(16 // processes), str(folder / "log")]
        subprocess.run([*launcher, *words], check=True, capture_output=True)
        curves.append(json.loads((folder / "curve.json").read_text()))
    assert len(curves[0]) == 15
    # A mean of masked labels differs between halves of a batch, as they have different numbers of labels.
    np.testing.assert_allclose(curves[0], curves[1], rtol=5e-3)
    both = sorted(position for batch in positions(tmp_path / "2" / "log") for position in batch)
    assert both[: 15 * 16] == list(range(15 * 16))
