"""From a screen to a model with baselines and scores, through the commands."""

import anndata
import numpy as np
import pandas as pd
import pytest
from transformers import AutoConfig

from state_hf import open_screens
from state_hf.cli import main
from state_hf.data.splits import PerturbationSplit

SIZES = ["--hidden-size", "16", "--num-hidden-layers", "1", "--num-attention-heads", "2", "--intermediate-size", "32",
         "--set-size", "8", "--steps", "6", "--evaluate-every", "3", "--device", "cpu"]  # fmt: skip


def test_train_and_predict(screen_path, tmp_path, capsys):
    folder = tmp_path / "model"
    arguments = ["train", str(screen_path), "--test-share", "0.25", "--val-share", "0.25", "--few-shot-cell-types",
                 "type_3", "--output", str(folder), *SIZES]  # fmt: skip
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "prediction of the test part" in printed
    scores = pd.read_csv(folder / "scores.csv", index_col="model")
    assert list(scores.index) == ["state_transition", "control_copy", "context_mean", "perturbation_mean",
                                  "perturbation_profile", "perturbation_ridge", "context_profile"]  # fmt: skip
    assert (scores["mae"] > 0).all()
    assert np.isnan(scores["discrimination"]).all()  # one perturbation only, so there are no others
    PerturbationSplit.load(folder, open_screens(screen_path))
    assert AutoConfig.from_pretrained(folder).feature_key == "X"
    # Again is refused; going on finds nothing left to do.
    assert main(arguments) == 2
    assert "go on with it (resume)" in capsys.readouterr().err
    assert main([*arguments, "--resume"]) == 0

    for model in (folder, folder / "baselines" / "perturbation_ridge"):
        output = tmp_path / "predicted.h5ad"
        words = ["predict", str(screen_path), "--model", str(model), "--output", str(output), "--cell-types", "type_3"]
        assert main([*words, "--all-perturbations", "--cells", "5", "--overwrite"]) == 0
        assert anndata.read_h5ad(output, backed="r").n_obs == 24 + 4 * 5


def test_transfer_to_a_new_screen(screen_path, tmp_path):
    words = ["train", str(screen_path), "--test-cell-types", "type_3", *SIZES]
    assert main([*words, "--output", str(tmp_path / "first")]) == 0
    scores = pd.read_csv(tmp_path / "first" / "scores.csv", index_col="model")
    assert "context_profile" not in scores.index  # nothing of type_3 trains
    words = [word for word in words if word not in SIZES] + SIZES[8:]
    assert main([*words, "--output", str(tmp_path / "second"), "--initial-model", str(tmp_path / "first"),
                 "--lora-rank", "2"]) == 0  # fmt: skip


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "say what is held out"),
        (["--test-cell-types", "type_9"], "there is no cell type 'type_9'"),
        (["--test-cell-types", "type_3", "--control", "contrl"], "no cell labelled 'contrl'"),
        (["--test-cell-types", "type_3", "--patience", "2"], "needs a validation part"),
    ],
)
def test_faults(screen_path, tmp_path, capsys, words, message):
    assert main(["train", str(screen_path), "--output", str(tmp_path / "model"), *SIZES, *words]) == 2
    assert message in capsys.readouterr().err
