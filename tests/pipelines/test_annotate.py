"""Labels from a reference's neighbours and from a trained head."""

import anndata as ad
import numpy as np
import pytest
import torch

from state_hf import StateEmbeddingForSequenceClassification
from state_hf.analysis.nearest_cells import nearest_neighbours, vote
from state_hf.analysis.neighbour_probe import NeighbourProbe
from state_hf.cli import main
from state_hf.modeling.state_embedding_classification import predict_classes
from state_hf.pipelines.annotate import annotate
from tests.corpus_files import GENES, cells, small_embedding_model, tokenizer
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
