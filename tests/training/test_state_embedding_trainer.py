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
from tests.launched import finish
from transformers import set_seed

from state_hf import (
    CellCorpus,
    StateEmbeddingForMaskedExpression,
    StateEmbeddingTrainer,
    StateEmbeddingTrainingArguments,
)
from state_hf.training.checkpoints import last_complete_checkpoint
from state_hf.training.corpus_trainer import PositionSampler
from state_hf.training.dataset_classes import extend_datasets
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


@pytest.mark.parametrize(
    "changes",
    [
        {"activation_checkpointing": True},
        {"bf16": True},
        {"dataloader_num_workers": 1},
        # The compiler warns of its own accesses.
        pytest.param(
            {"torch_compile": True, "torch_compile_backend": "aot_eager"}, marks=pytest.mark.filterwarnings("ignore")
        ),
    ],
)
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
import json, os, signal, time
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from tests.training.test_state_embedding_trainer import curve, make_trainer
folder, manifest, options = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
first, resume, pause = AcceleratorState.__init__, options.pop("resume", None), options.pop("pause", 0)
last_position = options.pop("last_position", None)
def with_fsdp(self, *args, fsdp_plugin=None, **kwargs):
    first(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
    if fsdp_plugin is not None:  # Accelerate leaves it out on CPUs.
        self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin
AcceleratorState.__init__ = with_fsdp
trainer = make_trainer(folder, manifest, **options)
collate = trainer.data_collator
def logged(cells):
    with open(folder + "/collated", "a") as log:
        log.write(" ".join(str(p) for part in cells for p in part.positions.tolist()) + "\\n")
    if max(part.positions.max() for part in cells) == last_position:
        os.kill(os.getpid(), signal.SIGKILL)  # This process is a worker that loads data.
    time.sleep(pause)
    return collate(cells)
trainer.data_collator = logged
trainer.train(resume_from_checkpoint=resume)
if options.get("fsdp"):
    trainer.save_model(folder + "/whole")
if trainer.is_world_process_zero():
    json.dump(curve(trainer), open(folder + "/curve.json", "w"))
trainer.accelerator.wait_for_everyone()
# Sharded models hold their group to the end; its threads would abort an interpreter that ends before them.
os._exit(0)
"""
# The energy distance is a mean over cells, so that halves of a batch weigh the same.
_SAME = {"fields": {"hidden_dropout_prob": 0.0, "expression_loss": "energy"}, "average_decay": 0.9}


@pytest.fixture
def script(tmp_path) -> Path:
    path = tmp_path / "training.py"
    path.write_text(f"import sys\nsys.path[:0] = {[str(Path(__file__).parents[2]), *sys.path]!r}\n{_SCRIPT}")
    return path


def command(script: Path, folder: Path, manifest: Path, *, processes: int | None = None, **options) -> list[str]:
    folder.mkdir(exist_ok=True)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)] if processes else []
    return [sys.executable, *launcher, str(script), str(folder), str(manifest), json.dumps(options)]


def collated(folder: Path) -> list[list[int]]:
    return [[int(word) for word in line.split()] for line in (folder / "collated").read_text().splitlines()]


def test_killed_training_goes_on_to_the_bit_without_repeating_or_skipping_a_cell(tmp_path, script, manifest):
    folder, steps = tmp_path / "run", 30
    options = {"max_steps": steps, "save_steps": 3, "save_total_limit": 3, "average_decay": 0.9}
    killed = command(script, folder, manifest, pause=0.1, **options)
    process = subprocess.Popen(killed, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while last_complete_checkpoint(folder) is None:
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(float(np.random.default_rng().uniform(0, 1)))
    process.send_signal(signal.SIGKILL)
    process.wait()
    reached = int(Path(last_complete_checkpoint(folder)).name.split("-")[1])
    assert reached < steps
    before = collated(folder)[:reached]
    (folder / "collated").unlink()
    finish(command(script, folder, manifest, resume=True, **options))
    whole = make_trainer(tmp_path / "whole", manifest, **options)
    whole.train()
    assert json.loads((folder / "curve.json").read_text()) == curve(whole)
    # Batches are collated one ahead, and name their positions by file.
    seen = sorted(position for batch in (before + collated(folder))[:steps] for position in batch)
    assert seen == list(range(16 * steps))
    corpus = whole.train_dataset
    cells = [(part.source.file.path, cell) for position in seen[: len(corpus)]
             for part in corpus[position] for cell in part.cells.tolist()]  # fmt: skip
    assert len(set(cells)) == len(cells) == len(corpus)


def test_training_goes_on_where_a_loading_worker_died(tmp_path, script, manifest):
    folder = tmp_path / "run"
    options = {"dataloader_num_workers": 1, "save_steps": 2}
    # Whether the process hears first of the death, or of the broken connection, is a matter of chance.
    died = subprocess.run(command(script, folder, manifest, last_position=6 * 16 - 1, **options), capture_output=True)
    assert died.returncode not in (0, -signal.SIGKILL)
    finish(command(script, folder, manifest, resume=True, **options))
    whole = make_trainer(tmp_path / "whole", manifest, **options)
    whole.train()
    assert json.loads((folder / "curve.json").read_text()) == curve(whole)


def test_two_processes_follow_the_curve_of_one_which_goes_on_with_their_checkpoint(tmp_path, script, manifest):
    one = make_trainer(tmp_path / "one", manifest, max_steps=15, **_SAME)
    one.train()
    folder = tmp_path / "two"
    options = {"max_steps": 15, "save_steps": 10, "per_device_train_batch_size": 8, **_SAME}
    finish(command(script, folder, manifest, processes=2, **options))
    np.testing.assert_allclose(json.loads((folder / "curve.json").read_text()), curve(one), rtol=1e-5)
    both = sorted(position for batch in collated(folder) for position in batch)
    assert both[: 15 * 16] == list(range(15 * 16))
    resumed = make_trainer(folder, manifest, max_steps=15, save_steps=100, **_SAME)
    resumed.train(str(folder / "checkpoint-10"))
    np.testing.assert_allclose(curve(resumed), curve(one), rtol=1e-5)


def test_sharded_weights_follow_the_curve_of_whole_ones_which_go_on_with_their_checkpoint(tmp_path, script, manifest):
    one = make_trainer(tmp_path / "one", manifest, **_SAME)
    one.train()
    folder = tmp_path / "fsdp"
    options = {"fsdp": True, "save_steps": 4, "per_device_train_batch_size": 8, **_SAME}
    finish(command(script, folder, manifest, processes=2, **options))
    np.testing.assert_allclose(json.loads((folder / "curve.json").read_text()), curve(one), rtol=1e-5)
    saved = StateEmbeddingForMaskedExpression.from_pretrained(folder / "whole")
    for (name, value), twin in zip(one.model.state_dict().items(), saved.state_dict().values(), strict=True):
        # A key's bias changes nothing, so its gradient is rounding, which AdamW makes steps of.
        if not name.endswith("k_proj.bias"):
            torch.testing.assert_close(value, twin, rtol=1e-4, atol=1e-5, msg=name)
    resumed = make_trainer(folder, manifest, save_steps=100, **_SAME)
    resumed.train(str(folder / "checkpoint-4"))
    np.testing.assert_allclose(curve(resumed), curve(one), rtol=1e-5)
    for name, value in one.average.weights.items():
        if not name.endswith("k_proj.bias"):
            torch.testing.assert_close(value, resumed.average.weights[name], rtol=1e-4, atol=1e-5)


def test_shards_of_two_processes_go_on_in_one(tmp_path, script, manifest):
    folder = tmp_path / "run"
    sharded = {"fsdp": True, "fsdp_config": {"state_dict_type": "SHARDED_STATE_DICT"}, "save_steps": 4, **_SAME}
    two = command(script, folder, manifest, processes=2, per_device_train_batch_size=8, **sharded)
    finish(two)
    curve_of_two = json.loads((folder / "curve.json").read_text())
    assert len(list((folder / "checkpoint-4").glob("*/*.distcp"))) == 4
    checkpoint = str(folder / "checkpoint-4")
    one = command(script, tmp_path / "one", manifest, processes=1, resume=checkpoint, **sharded)
    subprocess.run(one, check=True, capture_output=True)
    np.testing.assert_allclose(json.loads((tmp_path / "one" / "curve.json").read_text()), curve_of_two, rtol=1e-5)
