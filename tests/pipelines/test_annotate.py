"""Labels from a reference's neighbours and from a trained head."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from transformers import AutoConfig

from state_hf import StateEmbeddingForSequenceClassification, convert
from state_hf.analysis.nearest_cells import nearest_neighbours, vote
from state_hf.analysis.neighbour_probe import NeighbourProbe
from state_hf.cli import main
from state_hf.data.partial_results import PartialResults
from state_hf.inference.classifiers import fit_last_layer, last_layer, last_logits, new_classifier, predict_classes
from state_hf.pipelines.annotate import annotate
from tests.corpus_files import GENES, cells, small_embedding_model, tokenizer
from tests.geneformer_models import COUNTS, FOLDER, IDS
from tests.rounding import FUNCTION, bound
from tests.screen_models import lose_a_weight


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A model's folder, a labelled reference, and cells of the same two types."""
    folder = tmp_path_factory.mktemp("annotate")
    torch.manual_seed(1)
    small_embedding_model(hidden_dropout_prob=0.0).save_pretrained(folder / "model")
    tokenizer().save_pretrained(folder / "model")
    reference = cells(0, 90, GENES)
    reference.obs["cell_type"] = reference.obs["cell_type"].where(np.arange(90) >= 5)
    reference.write_h5ad(folder / "reference.h5ad")
    cells(1, 40, GENES).write_h5ad(folder / "cells.h5ad")
    return folder


def test_neighbours_and_votes_by_hand():
    near, distances = nearest_neighbours(np.array([[0.0], [9.0]]), np.array([[1.0], [8.0], [3.0]]), 2)
    assert near.tolist() == [[0, 2], [1, 2]]
    assert distances.tolist() == [[1.0, 3.0], [1.0, 6.0]]
    assert vote(np.array([0, 1, 1]), near, 2).tolist() == [[0.5, 0.5], [0.0, 1.0]]


def test_unknown_classes():
    numbers, probability = predict_classes(torch.tensor([[3.0, 0.0], [0.1, 0.0]]), 0.9)
    assert numbers.tolist() == [0, -1]
    assert probability[1].item() == pytest.approx(1 / (1 + np.exp(-0.1)))


def test_labels_of_neighbours(files, tmp_path):
    truth = ad.read_h5ad(files / "cells.h5ad").obs["cell_type"].to_numpy()
    options = {"model": files / "model", "reference": files / "reference.h5ad"}
    table = annotate(files / "cells.h5ad", tmp_path / "out.h5ad", **options, distance_quantile=1)
    assert (table["predicted_cell_type"] == truth).mean() > 0.9
    written = ad.read_h5ad(tmp_path / "out.h5ad")
    assert written.obs["predicted_cell_type"].tolist() == table["predicted_cell_type"].tolist()
    assert set(table.columns) == {"predicted_cell_type", "predicted_cell_type_share", "predicted_cell_type_distance"}
    strict = annotate(files / "cells.h5ad", tmp_path / "t.csv", **options, unknown_threshold=1.0, distance_quantile=0.5)
    unsure = strict["predicted_cell_type"] == "unknown"
    assert 0 < unsure.sum() < 40
    assert (strict.loc[~unsure, "predicted_cell_type_share"] == 1).all()


def test_a_head_is_trained_saved_and_used_again(files, tmp_path, capsys):
    truth = ad.read_h5ad(files / "cells.h5ad").obs["cell_type"].to_numpy()
    words = ["annotate", str(files / "cells.h5ad")]
    first = [*words, "--model", str(files / "model"), "--reference", str(files / "reference.h5ad")]
    assert main([*first, "--fit-head", str(tmp_path / "head"), "--output", str(tmp_path / "one.csv")]) == 0
    assert "type_0" in capsys.readouterr().out
    table = annotate(files / "cells.h5ad", tmp_path / "two.csv", model=tmp_path / "head")
    assert (table["predicted_cell_type"] == truth).mean() > 0.9
    assert (tmp_path / "one.csv").read_text() == (tmp_path / "two.csv").read_text()
    classifier = StateEmbeddingForSequenceClassification.from_pretrained(tmp_path / "head")
    assert classifier.config.id2label == {0: "type_0", 1: "type_1"}
    counts = ad.read_h5ad(files / "reference.h5ad").obs["cell_type"].value_counts().sort_index().to_numpy()
    np.testing.assert_allclose(classifier.config.class_weights, 85 / (2 * counts), rtol=1e-5)
    lose_a_weight(tmp_path / "head", "classifier")
    with pytest.raises(ValueError, match="is incomplete: 1 of its model's weights are missing"):
        annotate(files / "cells.h5ad", tmp_path / "t.csv", model=tmp_path / "head")


def test_the_probe_tells_types_apart(files):
    probe = NeighbourProbe(files / "reference.h5ad", tokenizer())
    model = StateEmbeddingForSequenceClassification.from_pretrained(files / "model", num_labels=2)
    assert probe(model.state_embedding)["probe_accuracy"] > 0.9


def test_what_does_not_fit_is_refused(files, tmp_path):
    with pytest.raises(ValueError, match="is no classifier"):
        annotate(files / "cells.h5ad", tmp_path / "t.csv", model=files / "model")
    with pytest.raises(ValueError, match="no column 'kind'"):
        annotate(files / "cells.h5ad", tmp_path / "t.csv", model=files / "model", reference=files / "reference.h5ad",
                 label_key="kind")  # fmt: skip


def options_of(files) -> dict:
    return {"model": files / "model", "reference": files / "reference.h5ad", "device": "cpu"}


@pytest.mark.parametrize("name", ["t.csv", "t.h5ad", "t.zarr"])
def test_what_exists_is_refused_before_any_work_and_replaced_on_request(files, tmp_path, name, monkeypatch):
    first = annotate(files / "cells.h5ad", tmp_path / name, **options_of(files))
    with monkeypatch.context() as patch:
        patch.setattr("state_hf.pipelines.annotate.read_labels", lambda *_: pytest.fail("work before the check"))
        with pytest.raises(FileExistsError, match="exists already"):
            annotate(files / "cells.h5ad", tmp_path / name, **options_of(files))
    kept = annotate(files / "cells.h5ad", tmp_path / name, **options_of(files), resume=True)
    assert kept["predicted_cell_type"].tolist() == first["predicted_cell_type"].tolist()
    with pytest.raises(ValueError, match="made with other settings: neighbours was 15 and is 3"):
        annotate(files / "cells.h5ad", tmp_path / name, **options_of(files), neighbours=3, resume=True)
    other = annotate(files / "cells.h5ad", tmp_path / name, **options_of(files), unknown_threshold=1, overwrite=True)
    assert (other["predicted_cell_type"] == "unknown").any()
    assert not [path for path in tmp_path.iterdir() if path.name not in (name, f"{name}.json")]


def test_an_interrupted_run_goes_on_and_embeds_only_what_is_missing(files, tmp_path, monkeypatch):
    whole = annotate(files / "cells.h5ad", tmp_path / "whole.csv", **options_of(files))
    write, written = PartialResults.write, []

    def stop_at_the_third(self, block, rows):
        written.append(self.folder.name)
        if len(written) == 3:
            raise KeyboardInterrupt
        write(self, block, rows)

    # Small files are one block; here they are several.
    monkeypatch.setattr("state_hf.inference.embedding_task._MIN_BLOCK_CELLS", 30)
    monkeypatch.setattr(PartialResults, "write", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        annotate(files / "cells.h5ad", tmp_path / "t.csv", **options_of(files))
    assert not (tmp_path / "t.csv").exists()
    with pytest.raises(FileExistsError, match="an unfinished run lies in"):
        annotate(files / "cells.h5ad", tmp_path / "t.csv", **options_of(files))
    resumed = annotate(files / "cells.h5ad", tmp_path / "t.csv", **options_of(files), resume=True)
    pd.testing.assert_frame_equal(resumed, whole)
    # 90 and 40 cells in blocks of 30: five blocks, of which two were there.
    assert len(written) == 3 + 3
    assert not (tmp_path / "t.csv.partial").exists()


def test_a_threshold_of_zero_is_kept_and_calls_no_cell_unknown(files, tmp_path):
    options = {**options_of(files), "fit_head": tmp_path / "head"}
    table = annotate(files / "cells.h5ad", tmp_path / "one.csv", **options, unknown_threshold=0.0)
    classifier = StateEmbeddingForSequenceClassification.from_pretrained(tmp_path / "head")
    assert classifier.config.unknown_threshold == 0.0
    assert (table["predicted_cell_type"] != "unknown").all()
    with pytest.raises(FileExistsError, match="exists already; choose another name"):
        annotate(files / "cells.h5ad", tmp_path / "two.csv", **options)


def test_random_numbers_of_the_user_are_left_alone(files, tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    annotate(files / "cells.h5ad", tmp_path / "t.csv", **options_of(files))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"neighbours": 0}, "neighbours must be a whole number from 1 on"),
        ({"unknown_threshold": 1.5}, r"unknown_threshold must be in \[0, 1\]"),
        ({"distance_quantile": -0.1}, r"distance_quantile must be in \[0, 1\]"),
        ({"reference": None, "fit_head": "head"}, "fit_head trains a classifier on a reference"),
        ({"fil": "none"}, "unexpected keyword argument 'fil'"),
        ({"resume": True, "overwrite": True}, "choose one of them"),
    ],
)
def test_options_that_mean_nothing_are_refused(files, tmp_path, options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        annotate(files / "cells.h5ad", tmp_path / "t.csv", **{**options_of(files), **options})


@pytest.mark.parametrize("classes", [2, 3])
def test_a_head_is_the_regression_of_what_it_reads(files, classes):
    """Of two classes the solver gives one row of coefficients; the layer's probabilities are its own all the same."""
    rng = np.random.default_rng(0)
    labels = np.array(list("abc"))[np.arange(60) % classes]
    head = new_classifier(files / "model", sorted(set(labels)), seed=0)
    features = rng.normal(3.0, 0.1, size=(60, head.config.output_dim)).astype(np.float32)
    fit_last_layer(head, features, labels)
    means, scales = features.mean(axis=0, dtype=np.float64), features.std(axis=0, dtype=np.float64)
    solver = LogisticRegression(class_weight="balanced", max_iter=2000).fit((features - means) / scales, labels)
    expected = solver.predict_proba((features - means) / scales)
    probability = torch.from_numpy(last_logits(head, features)).softmax(dim=-1).numpy()
    weights = last_layer(head).weight.detach().abs().numpy()
    # Products of the features as they are, which are thirty times their spread, in float32; a softmax passes on no
    # more than a logit is off by.
    most = (np.abs(features) @ weights.T + last_layer(head).bias.detach().abs().numpy()).max()
    roundings = features.shape[1] + FUNCTION
    np.testing.assert_allclose(probability, expected, rtol=0, atol=bound(roundings, np.float32, most))


def test_a_stock_model_gets_a_head_too(tmp_path, files):
    """Geneformer's classifier reads its first token through a pooler, which starts from random numbers."""
    convert(FOLDER / "v1" / "model", tmp_path / "model", dictionaries=FOLDER / "v1")
    counts = ad.AnnData(COUNTS.astype(np.float32))
    counts.var_names = IDS
    counts.obs["cell_type"] = np.array(["a", "b"])[np.arange(counts.n_obs) % 2]
    counts.write_h5ad(tmp_path / "cells.h5ad")
    options = {"reference": tmp_path / "cells.h5ad", "label_key": "cell_type", "unknown_threshold": 0.0}
    fitted = annotate(
        tmp_path / "cells.h5ad", tmp_path / "one.csv", model=tmp_path / "model", fit_head=tmp_path / "head", **options
    )
    again = annotate(tmp_path / "cells.h5ad", tmp_path / "two.csv", model=tmp_path / "head", label_key="cell_type")
    pd.testing.assert_frame_equal(fitted, again)
    assert AutoConfig.from_pretrained(tmp_path / "head").architectures == ["BertForSequenceClassification"]
