"""The training example, run on a tiny screen as a user runs it."""

import json
import runpy
import sys
from pathlib import Path

import pandas as pd
import pytest
from transformers import Trainer

from state_hf import StateTransitionForPerturbation

SCRIPT = Path(__file__).parents[2] / "examples" / "run_state_transition.py"
SMALL = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "set_size": 8,
    "use_cpu": True, "report_to": "none", "disable_tqdm": True, "logging_steps": 1, "save_steps": 2,
}  # fmt: skip


def run(monkeypatch, *words, **options):
    words = list(words)
    for name, value in {**SMALL, **options}.items():
        words += [f"--{name}", *(map(str, value) if isinstance(value, list) else [str(value)])]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *words])
    runpy.run_path(str(SCRIPT), run_name="__main__")


def losses(folder):
    log = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in log if "loss" in entry]


@pytest.fixture
def screen(screen_path):
    return {
        "screen_files": [screen_path],
        "validation_cell_types": ["type_2"],
        "test_cell_types": ["type_3"],
    }


def test_training_resuming_evaluation_and_baselines(monkeypatch, tmp_path, screen):
    run(monkeypatch, "--do_train", **screen, output_dir=tmp_path / "whole", max_steps=6)
    folder = tmp_path / "model"
    run(monkeypatch, "--do_train", **screen, output_dir=folder, max_steps=4)
    run(
        monkeypatch, "--do_train", "--do_eval", "--do_predict", **screen, output_dir=folder, max_steps=6,
        resume_from_checkpoint="true", evaluation_profile="vcc2025", evaluation_cells=60,
    )  # fmt: skip
    assert losses(folder) == losses(tmp_path / "whole")
    assert {"eval_loss", "eval_vcc2025_overall_score"} <= json.loads((folder / "eval_results.json").read_text()).keys()
    scores = pd.read_csv(folder / "scores.csv", index_col="model")
    assert list(scores.index) == ["state_transition", "control_copy", "context_mean", "perturbation_mean",
                                  "perturbation_profile", "perturbation_ridge", "treated_mean", "bilinear",
                                  "kernel_ridge", "mixed_effects"]  # fmt: skip
    assert (folder / "split.csv").exists()
    model = StateTransitionForPerturbation.from_pretrained(folder)
    assert model.vocabulary.cell_types == ("type_1", "type_2", "type_3")
    assert model.config.num_networks == 1
    assert model.network_effects.known.count_nonzero() == len(model.vocabulary.perturbations) - 1


def test_transfer_from_a_file_of_arguments_and_the_hub(monkeypatch, tmp_path, screen_path):
    split = tmp_path / "split.toml"
    split.write_text(f"[datasets]\nscreen = '{screen_path}'\n[training]\nscreen = 'train'\n"
                     "[zeroshot]\n'screen.type_3' = 'test'\n")  # fmt: skip
    run(monkeypatch, "--do_train", split_file=split, output_dir=tmp_path / "first", max_steps=2)
    pushed = []
    monkeypatch.setattr(Trainer, "init_hf_repo", lambda self, token=None: None)
    monkeypatch.setattr(Trainer, "_push_from_checkpoint", lambda self, folder: None)
    monkeypatch.setattr(Trainer, "push_to_hub", lambda self, **kwargs: pushed.append(self.args.hub_model_id))
    arguments = {**SMALL, "split_file": str(split), "output_dir": str(tmp_path / "second"), "max_steps": 2,
                 "do_train": True, "do_predict": True, "model_name_or_path": str(tmp_path / "first"), "lora_rank": 2,
                 "push_to_hub": True, "hub_model_id": "me/model"}  # fmt: skip
    (tmp_path / "arguments.json").write_text(json.dumps(arguments))
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), str(tmp_path / "arguments.json")])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    assert set(pushed) == {"me/model"}
    StateTransitionForPerturbation.from_pretrained(tmp_path / "second")
    assert len(pd.read_csv(tmp_path / "second" / "scores.csv")) == 10
