import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from state_hf.cli import main
from state_hf.data.screens.context_depths import Depth, depth_notes
from state_hf.data.screens.perturbation_screens import open_screens
from state_hf.data.screens.split_definition import zeroshot_split
from state_hf.data.screens.splits import PerturbationSplit

# Counts of each gene, of 20, that a cell of (context, control or treated) has on average.
ALIKE = {("t", "ctrl"): 2.0, ("t", "A"): 2.0, ("u", "ctrl"): 2.0, ("u", "A"): 2.0, ("v", "ctrl"): 2.0, ("v", "A"): 2.0}


def screen_of(rates, *, cells=200, counts_layer=True, as_counts=False):
    rng = np.random.default_rng(0)
    labels = [group for group in rates for _ in range(cells)]
    counts = rng.poisson(np.repeat(list(rates.values()), cells)[:, None], size=(len(labels), 20)).astype(np.float32)
    obs = pd.DataFrame(labels, columns=["cell_type", "perturbation"], dtype=str)
    obs.index = [f"c{number}" for number in range(len(obs))]
    logs = np.log1p(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1) * 100)
    adata = anndata.AnnData(sparse.csr_matrix(counts if as_counts else logs), obs=obs)
    adata.var_names = [f"g{number}" for number in range(20)]
    if counts_layer:
        adata.layers["counts"] = sparse.csr_matrix(counts)
    return adata


def notes_of(adata, *, slot="X", **held_out):
    screens = open_screens(adata, control="ctrl")
    return depth_notes(PerturbationSplit(screens, zeroshot_split(screens, **(held_out or {"test": ["v"]}))), slot)


def test_contexts_of_one_depth_need_no_word():
    assert notes_of(screen_of(ALIKE)) == []
    # A fifth more is what runs differ by.
    assert notes_of(screen_of({**ALIKE, ("v", "ctrl"): 2.4, ("v", "A"): 2.4})) == []


@pytest.mark.parametrize("as_counts", [False, True])
def test_a_context_far_from_those_that_train(as_counts):
    deep = screen_of({**ALIKE, ("v", "ctrl"): 4.0, ("v", "A"): 4.0}, counts_layer=not as_counts, as_counts=as_counts)
    assert notes_of(deep) == [
        "depth of 'v': its control cells have 80 counts each, and those of the nearest context that trains 40 (x 2.00) "
        "(medians). What looks like an effect may be depth: thin the counts of the deeper cells before they are "
        "normalised (`state-hf preprocess --reference-depth N`), or read scores of this context with that in mind"
    ]
    # Where it trains, nothing is outside training.
    assert notes_of(deep, test=["t"]) == []


def test_between_two_contexts_that_train_is_not_outside():
    assert (
        notes_of(screen_of({**ALIKE, ("u", "ctrl"): 10.0, ("u", "A"): 10.0, ("v", "ctrl"): 4.5, ("v", "A"): 4.5})) == []
    )


def test_treated_cells_of_another_depth_are_named_in_each_context():
    notes = notes_of(screen_of({**ALIKE, ("t", "A"): 3.0, ("v", "ctrl"): 4.0, ("v", "A"): 6.0}))
    assert [note.partition(" (medians)")[0] for note in notes] == [
        "depth of 't': its treated cells have 60 counts each, and its control cells 40 (x 1.50)",
        "depth of 'v': its control cells have 80 counts each, and those of the nearest context that trains 40 (x "
        "2.00); its treated cells have 118 counts each, and its control cells 80 (x 1.48)",
    ]


def test_without_counts_genes_are_counted():
    # Of 20 genes, 1 - exp(-0.5) are detected: 8, and 13 of the deeper cells.
    rates = dict.fromkeys(ALIKE, 0.5) | {("v", "ctrl"): 1.0, ("v", "A"): 1.0}
    (note,) = notes_of(screen_of(rates, counts_layer=False))
    assert note.startswith("depth of 'v': its control cells have 13 genes detected each, and those of the nearest ")
    assert "that trains 8 (x 1.62)" in note


def test_a_difference_within_its_error_is_not_told():
    few = np.array([10.0, 20.0, 40.0, 80.0, 160.0] * 3)
    shallow, deep = Depth.of(few), Depth.of(2 * few)
    assert deep.median == 2 * shallow.median == 80.0
    assert not deep.differs(shallow, 1.5)
    assert Depth.of(np.full(15, 80.0)).differs(Depth.of(np.full(15, 40.0)), 1.5)
    assert Depth.of(np.full(9, 80.0)) is None
    assert Depth.of(np.zeros(20)) is None


def test_training_tells(tmp_path, capsys, caplog):
    screen_of({**ALIKE, ("v", "ctrl"): 4.0, ("v", "A"): 4.0}, cells=20).write_h5ad(tmp_path / "screen.h5ad")
    words = ["train", str(tmp_path / "screen.h5ad"), "--control", "ctrl", "--test-cell-types", "v", "--steps", "1",
             "--hidden-size", "16", "--num-hidden-layers", "1", "--num-attention-heads", "2", "--device", "cpu",
             "--intermediate-size", "32", "--set-size", "8", "--output", str(tmp_path / "model")]  # fmt: skip
    assert main(words) == 0
    told = capsys.readouterr().err + caplog.text
    assert told.count("depth of 'v': its control cells have ") == 1


def test_prediction_tells(tmp_path, capsys, caplog):
    rates = dict.fromkeys(ALIKE, 0.5)
    screen_of(rates, cells=40).write_h5ad(tmp_path / "screen.h5ad")
    screen_of({**rates, ("t", "ctrl"): 1.0}, cells=40).write_h5ad(tmp_path / "deep.h5ad")
    words = ["train", str(tmp_path / "screen.h5ad"), "--control", "ctrl", "--test-cell-types", "v", "--steps", "1",
             "--hidden-size", "16", "--num-hidden-layers", "1", "--num-attention-heads", "2", "--device", "cpu",
             "--intermediate-size", "32", "--set-size", "8", "--output", str(tmp_path / "model")]  # fmt: skip
    assert main(words) == 0
    for name, told in (("screen", 0), ("deep", 1)):
        caplog.clear()
        capsys.readouterr()
        predicting = ["predict", str(tmp_path / f"{name}.h5ad"), "--model", str(tmp_path / "model"), "--output",
                      str(tmp_path / f"{name}-predicted.h5ad"), "--device", "cpu"]  # fmt: skip
        assert main(predicting) == 0
        notes = capsys.readouterr().err + caplog.text
        assert (
            notes.count("depth of 't': its control cells have 14 genes detected each, and those that the model") == told
        )
