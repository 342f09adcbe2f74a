"""The perturbation half of the demo, on a tiny screen."""

import runpy
import sys
from pathlib import Path

import pandas as pd
import pytest

SCRIPT = Path(__file__).parents[2] / "examples" / "demo_perturbation.py"


# numpy's mean of no effect at all, which three steps of training leave.
@pytest.mark.filterwarnings("ignore:.*invalid value:RuntimeWarning")
def test_one_table_of_all_models(monkeypatch, tmp_path, screen_path, capsys):
    words = ["--data", str(screen_path), "--output_dir", str(tmp_path), "--max_steps", "3"]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *words])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    table = pd.read_csv(tmp_path / "prediction_scores.csv", index_col="model")
    assert set(table.index) == {"state_transition", "control_copy", "context_mean", "perturbation_mean",
                                "perturbation_profile", "perturbation_ridge", "treated_mean", "context_profile",
                                "bilinear", "kernel_ridge",
                                "mixed_effects"}  # fmt: skip
    assert {"mae", "pds", "des", "overall_score", "pearson_delta", "energy_distance"} == set(table.columns)
    assert "2 perturbations of type_3 are held out" in capsys.readouterr().out
