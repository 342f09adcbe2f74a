"""Training of State Transition models: steps, losses, resuming, faults."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.launched import finish
from tests.tiny_models import state_transition_model
from transformers import set_seed

from state_hf import (
    PerturbationDataset,
    PerturbationVocabulary,
    StateTransitionForPerturbation,
    StateTransitionTrainer,
    StateTransitionTrainingArguments,
)
from state_hf.training.checkpoints import last_complete_checkpoint
from state_hf.training.state_transition_trainer import WholeStepsSampler
from state_hf.training.transfer import add_lora, freeze_backbone, replace_perturbations


def arguments(folder, **changes) -> StateTransitionTrainingArguments:
    fields = {"max_steps": 6, "logging_steps": 1, "save_steps": 3, "report_to": "none", "use_cpu": True,
              "disable_tqdm": True, "per_device_train_batch_size": 2, "seed": 5}  # fmt: skip
    return StateTransitionTrainingArguments(output_dir=str(folder), **{**fields, **changes})


def make_trainer(folder, split, vocabulary, *, model=None, fields=None, **changes) -> StateTransitionTrainer:
    set_seed(5)
    model = model or state_transition_model(vocabulary, **fields or {})
    return StateTransitionTrainer(
        model,
        arguments(folder, **changes),
        train_dataset=PerturbationDataset(split.screens, split=split, set_size=8, seed=5),
        eval_dataset=PerturbationDataset(split.screens, split=split, part="val", set_size=8, seed=5),
    )


def curve(trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def test_the_last_step_of_an_epoch_is_filled_up(split):
    dataset = PerturbationDataset(split.screens, split=split, set_size=8)
    sampler = WholeStepsSampler(dataset, sets_per_step=7)
    drawn = list(sampler)
    assert len(drawn) == len(sampler) == -(-len(dataset) // 7) * 7
    assert sorted(drawn[: len(dataset)]) == list(range(len(dataset)))
    assert drawn[len(dataset) :] == drawn[: len(drawn) - len(dataset)]


@pytest.mark.parametrize("stop", [3, 9])
def test_resuming_gives_the_same_losses_and_weights_to_the_bit(tmp_path, split, vocabulary, stop):
    # Dropout is on, and an epoch has 11 steps: the stop is inside the first one.
    whole = make_trainer(tmp_path / "whole", split, vocabulary, max_steps=14, save_steps=stop)
    whole.train()
    resumed = make_trainer(tmp_path / "whole", split, vocabulary, max_steps=14, save_steps=100)
    resumed.train(str(tmp_path / "whole" / f"checkpoint-{stop}"))
    assert curve(resumed) == curve(whole)
    for (name, one), other in zip(whole.model.state_dict().items(), resumed.model.state_dict().values(), strict=True):
        assert torch.equal(one, other), name


def test_accumulating_two_batches_is_one_batch_of_both(tmp_path, split, vocabulary):
    fields = {"dropout": 0.0}
    one = make_trainer(tmp_path / "a", split, vocabulary, fields=fields, per_device_train_batch_size=4)
    two = make_trainer(tmp_path / "b", split, vocabulary, fields=fields, gradient_accumulation_steps=2)
    one.train()
    two.train()
    np.testing.assert_allclose(curve(one), curve(two), rtol=1e-5)


@pytest.mark.parametrize("changes", [{"activation_checkpointing": True}, {"bf16": True}])
def test_other_ways_of_computing_give_the_same_curve(tmp_path, split, vocabulary, changes):
    fields = {"dropout": 0.0}
    plain = make_trainer(tmp_path / "a", split, vocabulary, fields=fields)
    other = make_trainer(tmp_path / "b", split, vocabulary, fields=fields, **changes)
    plain.train()
    other.train()
    np.testing.assert_allclose(curve(other), curve(plain), rtol=0.05 if "bf16" in changes else 1e-5)


def test_parts_of_the_loss_and_metrics_are_logged_and_choose_the_best_checkpoint(tmp_path, split, vocabulary):
    trainer = make_trainer(
        tmp_path, split, vocabulary, fields={"use_confidence_token": True}, eval_strategy="steps", eval_steps=3,
        load_best_model_at_end=True, metric_for_best_model="eval_cells", greater_is_better=True,
    )  # fmt: skip
    seen = []

    def metrics(predicted, real):
        import anndata

        cells, truth = anndata.read_h5ad(predicted), anndata.read_h5ad(real)
        seen.append(truth.n_obs)
        assert set(cells.obs["perturbation"]) == set(truth.obs["perturbation"]) == set(vocabulary.perturbations)
        assert set(cells.obs["cell_type"]) == {"type_2"}
        return {"cells": -float(len(seen))}

    trainer.compute_prediction_metrics = metrics
    trainer.train()
    step = next(entry for entry in trainer.state.log_history if "loss" in entry)
    assert {"distribution_loss", "confidence_loss"} <= step.keys()
    weight = trainer.model.config.confidence_weight
    assert step["loss"] == pytest.approx(step["distribution_loss"] + weight * step["confidence_loss"], rel=1e-4)
    evaluation = next(entry for entry in trainer.state.log_history if "eval_loss" in entry)
    assert {"eval_distribution_loss", "eval_cells"} <= evaluation.keys()
    assert seen[0] == 24 + 4 * 20
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-3")


def test_features_that_the_model_does_not_read_are_refused(tmp_path, split, vocabulary):
    model = state_transition_model(vocabulary)
    model.config.input_dim = 7
    with pytest.raises(ValueError, match="have 20 features, but the model's input_dim is 7"):
        make_trainer(tmp_path, split, vocabulary, model=model)


def test_lora_trains_few_weights_and_merges(tmp_path, split, vocabulary):
    model = state_transition_model(vocabulary)
    backbone = {name: value.clone() for name, value in model.state_transition.backbone.state_dict().items()}
    wrapped = add_lora(model, rank=2, alpha=4)
    trainer = make_trainer(tmp_path, split, vocabulary, model=wrapped, learning_rate=1e-2)
    trainer.train()
    merged = trainer.model.merge_and_unload()
    assert isinstance(merged, StateTransitionForPerturbation)
    merged.save_pretrained(tmp_path / "merged")
    loaded = StateTransitionForPerturbation.from_pretrained(tmp_path / "merged")
    changed = [
        name for name, value in loaded.state_transition.backbone.state_dict().items()
        if not torch.equal(value, backbone[name])
    ]  # fmt: skip
    assert changed
    assert all("_proj" in name and "mlp" not in name for name in changed)


def test_transfer_keeps_what_is_known_of_shared_perturbations(tmp_path, split, vocabulary):
    model = state_transition_model(vocabulary)
    old = model.state_transition.perturbation_encoder[0].weight.detach().clone()
    new = PerturbationVocabulary(
        ["NEW", vocabulary.perturbations[1], vocabulary.control_perturbation], vocabulary.control_perturbation,
        vocabulary.batches, vocabulary.cell_types, vocabulary.genes,
    )  # fmt: skip
    replace_perturbations(model, new)
    freeze_backbone(model)
    weight = model.state_transition.perturbation_encoder[0].weight
    assert weight.shape[1] == model.config.num_perturbations == 3
    assert torch.equal(weight[:, 1], old[:, 1])
    assert not any(value.requires_grad for value in model.state_transition.backbone.parameters())
    model.save_pretrained(tmp_path)
    assert StateTransitionForPerturbation.from_pretrained(tmp_path).vocabulary == new


def test_transfer_knows_perturbations_in_any_spelling(vocabulary):
    one, two, control = *vocabulary.perturbations[:2], vocabulary.control_perturbation
    names = [f"{two}+{one}", *vocabulary.perturbations[1:]]
    model = state_transition_model(replace(vocabulary, perturbations=names))
    old = model.state_transition.perturbation_encoder[0].weight.detach().clone()
    new = ["NEW", f"{one}+ctrl+{two}", f"ctrl+{two}", "ctrl"]
    replace_perturbations(model, replace(vocabulary, perturbations=new, control_perturbation="ctrl"))
    weight = model.state_transition.perturbation_encoder[0].weight
    assert torch.equal(weight[:, 1:], old[:, [0, 1, names.index(control)]])
    model = state_transition_model(vocabulary)
    lower = replace(vocabulary, perturbations=[one.lower(), control])
    with pytest.raises(
        ValueError, match=r"and the model to start from '.*', which differ in upper and lower case only"
    ):
        replace_perturbations(model, lower)
    replace_perturbations(model, lower, distinct_case=True)


def test_an_unfinished_checkpoint_is_passed_over(tmp_path):
    for step, state in ((3, "{}"), (6, '{"cut o'), (9, None)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        if state is not None:
            (folder / "trainer_state.json").write_text(state)
    assert last_complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-3")
    assert last_complete_checkpoint(tmp_path / "checkpoint-9") is None


_SCRIPT = """
import os
import sys
from state_hf import PerturbationDataset, PerturbationSplit, open_screens
from state_hf.data.screens.split_definition import zeroshot_split
from tests.training.test_state_transition_trainer import curve, make_trainer
from tests.screen_models import vocabulary_of
import json
folder, path, resume, steps = sys.argv[1], sys.argv[2], sys.argv[3] == "resume", int(sys.argv[4])
screens = open_screens(path)
split = PerturbationSplit(screens, zeroshot_split(screens, val=["type_2"], test=["type_3"]))
batch = int(sys.argv[5])
trainer = make_trainer(folder, split, vocabulary_of(split), fields={"dropout": 0.0}, max_steps=steps, save_steps=2,
                       per_device_train_batch_size=batch, save_total_limit=3)
trainer.train(resume_from_checkpoint=True if resume else None)
if trainer.is_world_process_zero():
    json.dump(curve(trainer), open(folder + "/curve.json", "w"))
trainer.accelerator.wait_for_everyone()
# Sharded models hold their group to the end; its threads would abort an interpreter that ends before them.
os._exit(0)
"""


def _command(script, *words, processes=1):
    # With --cpu, accelerate launch starts one process whatever the number asked for; --multi_gpu starts them all, and
    # the training arguments put them on the CPU.
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0"]
    launch = launch if processes == 2 else []
    return [sys.executable, *launch, str(script), *map(str, words)]


@pytest.fixture
def script(tmp_path) -> Path:
    path = tmp_path / "training.py"
    path.write_text(f"import sys\nsys.path[:0] = {[str(Path(__file__).parents[2]), *sys.path]!r}\n{_SCRIPT}")
    return path


def test_killed_training_goes_on(tmp_path, script, screen_path):
    folder = tmp_path / "run"
    process = subprocess.Popen(_command(script, folder, screen_path, "start", 5000, 2), stderr=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL)  # fmt: skip
    while last_complete_checkpoint(folder) is None:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    reached = int(Path(last_complete_checkpoint(folder)).name.split("-")[1])
    finish(_command(script, folder, screen_path, "resume", reached + 4, 2))
    assert len(json.loads((folder / "curve.json").read_text())) == reached + 4


def test_two_processes_follow_the_curve_of_one(tmp_path, script, screen_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    finish(_command(script, tmp_path / "one", screen_path, "start", 14, 4))
    finish(_command(script, tmp_path / "two", screen_path, "start", 14, 2, processes=2))
    one, two = (json.loads((tmp_path / name / "curve.json").read_text()) for name in ("one", "two"))
    assert len(one) == 14
    np.testing.assert_allclose(one, two, rtol=1e-4)
