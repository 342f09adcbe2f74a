"""Fine-tuning: splits, what is trained, resuming, scores beside baselines, and what is refused."""

import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import state_hf
from state_hf.cli import main
from state_hf.pipelines.finetune import finetune, read_finetuned
from state_hf.reporting.finetuning_report import finetuning_page
from state_hf.training.label_trainer import LabelTrainer
from tests.corpus_files import GENES, cells, small_embedding_model, tokenizer
from tests.geneformer_models import FOLDER, IDS

QUICK = {"epochs": 2, "device": "cpu", "batch_size": 16}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A model, and labelled cells of two types of four donors, with ages and a few cells without a label."""
    folder = tmp_path_factory.mktemp("finetune")
    torch.manual_seed(1)
    small_embedding_model(hidden_dropout_prob=0.0).save_pretrained(folder / "model")
    tokenizer().save_pretrained(folder / "model")
    labelled = cells(0, 120, GENES)
    labelled.obs["donor"] = [f"d{number % 4}" for number in range(120)]
    labelled.obs["age"] = labelled.obs["cell_type"].map({"type_0": 20.0, "type_1": 60.0}).astype(float)
    labelled.obs["cell_type"] = labelled.obs["cell_type"].where(np.arange(120) >= 4)
    labelled.write_h5ad(folder / "labelled.h5ad")
    return folder


def test_a_fine_tuned_model_is_saved_with_its_scores_beside_the_baselines(files, tmp_path):
    tuned = finetune(
        files / "labelled.h5ad", tmp_path / "out", model=files / "model", group_key="donor", learning_rate=0.01,
        epochs=6, device="cpu", seed=3,
    )  # fmt: skip
    simple = [f"variable genes, PCA, {name}" for name in ("logistic regression", "random forest", "support vectors")]
    assert list(tuned.scores.index) == ["fine-tuned", *simple, "majority"]
    assert tuned.scores.loc["fine-tuned", "accuracy"] > tuned.scores.loc["majority", "accuracy"]
    groups = tuned.record["split"]["groups"]
    assert sorted(groups["train"] + groups["val"] + groups["test"]) == ["d0", "d1", "d2", "d3"]
    assert sum(tuned.record["split"]["cells"].values()) == 116
    assert tuned.confusion.to_numpy().sum() == tuned.record["split"]["cells"]["test"]
    assert "\n# out\n" in (tmp_path / "out" / "README.md").read_text()
    # What was saved predicts what was scored.
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    assert model.config.id2label == {0: "type_0", 1: "type_1"}
    predictions = pd.read_csv(tmp_path / "out" / "test_predictions.csv", index_col=0)
    labelled = ad.read_h5ad(files / "labelled.h5ad")[predictions.index]
    encoding = AutoTokenizer.from_pretrained(tmp_path / "out").encode_cells(labelled)
    with torch.inference_mode():
        numbers = model(**encoding).logits.argmax(dim=-1)
    assert [model.config.id2label[number] for number in numbers.tolist()] == predictions["predicted"].tolist()
    labels = state_hf.annotate(files / "labelled.h5ad", tmp_path / "labels.csv", model=tmp_path / "out", device="cpu")
    assert (labels.loc[predictions.index, "predicted_cell_type"] == predictions["predicted"]).mean() > 0.9


def test_a_family_on_a_stock_model(tmp_path):
    rng = np.random.default_rng(0)
    # Two types of cells, each with half of the genes.
    counts = rng.poisson(3.0, (60, len(IDS))) * ((np.arange(len(IDS)) % 2) == (np.arange(60) % 2)[:, None])
    labelled = ad.AnnData(sp.csr_matrix(counts.astype(np.float32)), var=pd.DataFrame(index=IDS))
    labelled.obs["cell_type"] = [f"type_{number % 2}" for number in range(60)]
    labelled.obs_names = [f"cell{number}" for number in range(60)]
    labelled.write_h5ad(tmp_path / "labelled.h5ad")
    state_hf.convert(FOLDER / "v1" / "model", tmp_path / "model")
    tuned = finetune(
        tmp_path / "labelled.h5ad", tmp_path / "out", model=tmp_path / "model", learning_rate=0.003, epochs=5,
        device="cpu",
    )  # fmt: skip
    assert tuned.scores.loc["fine-tuned", "accuracy"] > 0.9
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert type(model).__name__ == "BertForSequenceClassification"
    assert model.config.converted_from["original"] == {"file": "pytorch_model.bin"}
    predictions = pd.read_csv(tmp_path / "out" / "test_predictions.csv", index_col=0)
    options = {"model": tmp_path / "out", "device": "cpu", "unknown_threshold": 0}
    labels = state_hf.annotate(tmp_path / "labelled.h5ad", tmp_path / "labels.csv", **options)
    assert labels.loc[predictions.index, "predicted_cell_type"].tolist() == predictions["predicted"].tolist()


@pytest.mark.parametrize("trained", ["last", "head", "lora"])
def test_what_is_not_trained_stays(files, tmp_path, trained):
    finetune(files / "labelled.h5ad", tmp_path / "out", model=files / "model", trained=trained, layers=1, **QUICK)
    before = small_weights(files / "model")
    after = small_weights(tmp_path / "out")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    encoder = {name for name in changed if name.startswith("state_embedding.")}
    assert not any("lora" in name for name in after)
    if trained == "head":
        assert not encoder
    elif trained == "last":
        assert encoder
        assert all(name.startswith("state_embedding.encoder.layers.0.") for name in encoder)
    else:
        assert encoder
        assert not any("norm" in name or "gene_table" in name for name in encoder)


def small_weights(folder) -> dict[str, torch.Tensor]:
    return AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2).state_dict()


def test_a_regression(files, tmp_path):
    tuned = finetune(
        files / "labelled.h5ad", tmp_path / "out", model=files / "model", label_key="age", task="regression", **QUICK
    )
    assert list(tuned.scores.index) == ["fine-tuned", "variable genes, PCA, ridge", "mean"]
    assert list(tuned.scores.columns) == ["mae", "r2", "pearson"]
    assert tuned.per_class is None
    assert tuned.scores.loc["variable genes, PCA, ridge", "mae"] < tuned.scores.loc["mean", "mae"]


def test_an_interrupted_training_goes_on_to_the_same_scores(files, tmp_path, monkeypatch):
    options = {"model": files / "model", "epochs": 3, "device": "cpu", "batch_size": 16, "learning_rate": 0.01}
    whole = finetune(files / "labelled.h5ad", tmp_path / "whole", **options)

    step, steps = LabelTrainer.training_step, []

    def stop_in_the_third_epoch(self, *arguments, **named):
        steps.append(self.state.epoch)
        if self.state.epoch > 2:
            raise KeyboardInterrupt
        return step(self, *arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(LabelTrainer, "training_step", stop_in_the_third_epoch)
        with pytest.raises(KeyboardInterrupt):
            finetune(files / "labelled.h5ad", tmp_path / "out", **options)
    assert len(steps) > 10
    assert not (tmp_path / "out").exists()
    with pytest.raises(FileExistsError, match="an unfinished run lies in"):
        finetune(files / "labelled.h5ad", tmp_path / "out", **options)
    with pytest.raises(ValueError, match=r"test_share was 0\.2 and is 0\.3"):
        finetune(files / "labelled.h5ad", tmp_path / "out", **options, test_share=0.3, resume=True)
    resumed = finetune(files / "labelled.h5ad", tmp_path / "out", **options, resume=True)
    pd.testing.assert_frame_equal(resumed.scores, whole.scores, rtol=1e-4)
    assert resumed.record["training"]["steps"] == whole.record["training"]["steps"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "whole"]
    kept = finetune(files / "labelled.h5ad", tmp_path / "out", **options, resume=True)
    pd.testing.assert_frame_equal(kept.scores, resumed.scores)


def test_the_command_and_its_page(files, tmp_path, capsys):
    words = [
        "finetune", str(files / "labelled.h5ad"), "--model", str(files / "model"), "--output", str(tmp_path / "out"),
        "--epochs", "1", "--device", "cpu", "--trained", "head", "--report", str(tmp_path / "page.html"),
    ]  # fmt: skip
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "note: cells were divided at random" in printed
    assert "majority" in printed
    assert f"Wrote {tmp_path / 'out'}, report {tmp_path / 'page.html'}" in printed
    assert "<table" in (tmp_path / "page.html").read_text(encoding="utf-8")
    assert main(words) == 2
    assert "exists already" in capsys.readouterr().err


def test_settings_are_searched_for_and_the_best_are_trained_with(files, tmp_path):
    options = {"model": files / "model", "trained": "head", "trials": 4, "epochs": 2, "batch_size": 16, "device": "cpu"}
    tuned = finetune(files / "labelled.h5ad", tmp_path / "out", **options)
    trials = tuned.record["training"]["trials"]
    assert len(trials) == 4
    best = max(trials, key=lambda trial: trial["value"])
    assert tuned.record["training"]["learning_rate"] == best["settings"]["learning_rate"]
    for trial in trials:
        assert 1e-6 <= trial["settings"]["learning_rate"] <= 1e-3
        assert 0 <= trial["settings"]["weight_decay"] <= 0.3
        assert trial["settings"]["lr_scheduler_type"] in ("linear", "cosine", "polynomial")
        # 82 cells make 10 steps.
        assert trial["settings"]["warmup_steps"] == 5
    assert len({trial["settings"]["learning_rate"] for trial in trials}) == 4
    again = finetune(files / "labelled.h5ad", tmp_path / "again", **options)
    assert again.record["training"]["trials"] == trials
    with pytest.raises(ValueError, match="trials are compared on validation cells"):
        finetune(files / "labelled.h5ad", tmp_path / "none", **{**options, "val_share": 0.0})


def test_a_name_never_becomes_markup(files, tmp_path):
    finetune(files / "labelled.h5ad", tmp_path / "out", model=files / "model", **QUICK, trained="head")
    record = json.loads((tmp_path / "out" / "finetuning.json").read_text())
    record["split"]["audit"].append("<script>alert(1)</script>")
    (tmp_path / "out" / "finetuning.json").write_text(json.dumps(record))
    table = pd.read_csv(tmp_path / "out" / "per_class.csv", index_col=0)
    table.index = ["<b>x</b>", *table.index[1:]]
    table.to_csv(tmp_path / "out" / "per_class.csv")
    page = finetuning_page(read_finetuned(tmp_path / "out"))
    assert "<script>" not in page
    assert "<b>x</b>" not in page
    assert "&lt;b&gt;x&lt;/b&gt;" in page


def test_cells_on_both_sides_are_said(files, tmp_path):
    labelled = ad.read_h5ad(files / "labelled.h5ad")
    doubled = ad.concat([labelled, labelled], index_unique="-", keys=["a", "b"])
    doubled.write_h5ad(tmp_path / "doubled.h5ad")
    tuned = finetune(tmp_path / "doubled.h5ad", tmp_path / "out", model=files / "model", trained="head", **QUICK)
    assert any("have exactly the expression of a training cell" in text for text in tuned.record["split"]["audit"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_key": "kind"}, "no column 'kind'"),
        ({"label_key": "donor", "task": "regression"}, "no column of numbers"),
        ({"group_key": "cell_type", "val_share": 0.2}, "2 groups .* cannot be divided into 3 parts"),
        ({"test_share": 0.95}, "must leave cells to train on"),
        ({"trained": "some"}, "trained one of all, last, head, lora"),
        ({"trained": "last", "layers": 9}, "layers must be from 1 to 1"),
        ({"fil": "none"}, "unexpected keyword argument 'fil'"),
    ],
)
def test_what_does_not_fit_is_refused(files, tmp_path, options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        finetune(files / "labelled.h5ad", tmp_path / "out", model=files / "model", **options)
    assert not (tmp_path / "out").exists()


def test_one_label_is_no_classification(files, tmp_path):
    labelled = ad.read_h5ad(files / "labelled.h5ad")
    labelled.obs["cell_type"] = "B"
    labelled.X = sp.csr_matrix(labelled.X)
    labelled.write_h5ad(tmp_path / "one.h5ad")
    with pytest.raises(ValueError, match="a classifier needs two"):
        finetune(tmp_path / "one.h5ad", tmp_path / "out", model=files / "model")
