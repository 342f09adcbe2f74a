"""Prediction: what is predicted, from which controls, on which scale, and what is refused."""

import gc

import anndata
import numpy as np
import pandas as pd
import pytest
import torch

from state_hf import PerturbationBaseline, PerturbationBaselineConfig, PerturbationVocabulary, predict
from state_hf.data.cells.cell_writer import cell_writer
from state_hf.inference.control_cells import draw_windows
from state_hf.inference.predicted_counts import draw_counts, round_counts
from tests.screen_models import normalised_screen
from tests.tiny_models import state_transition_model


@pytest.fixture(scope="module")
def model(vocabulary):
    torch.manual_seed(0)
    return state_transition_model(vocabulary, nonnegative_output=True)


@pytest.fixture(scope="module")
def screen():
    return normalised_screen()


def of(cells, perturbation, cell_type):
    chosen = (cells.obs["perturbation"] == perturbation) & (cells.obs["cell_type"] == cell_type)
    return np.asarray(cells[chosen.to_numpy()].X.todense())


def test_the_groups_of_the_file_with_their_numbers_and_its_controls(screen, screen_path, model, vocabulary):
    predicted = predict(screen_path, model)
    assert list(predicted.var_names) == list(vocabulary.genes)
    groups = ["cell_type", "perturbation"]
    expected = screen.obs.astype(str).value_counts(groups)
    pd.testing.assert_series_equal(predicted.obs.astype(str).value_counts(groups).sort_index(), expected.sort_index())
    control = vocabulary.control_perturbation
    np.testing.assert_array_equal(of(predicted, control, "type_2"), of(screen, control, "type_2"))
    assert predicted.uns["prediction"]["scale"] == "log1p"
    assert predicted.X.min() >= 0
    assert predicted.X.max() <= 14


def test_a_group_depends_on_the_seed_alone(screen, model, vocabulary):
    name = vocabulary.perturbations[0]
    whole = predict(screen, model, cells=10)
    alone = predict(screen, model, [name], cells=10, cell_types=["type_2"], batch_size=1, controls="none")
    assert alone.n_obs == 10
    np.testing.assert_allclose(of(alone, name, "type_2"), of(whole, name, "type_2"), atol=1e-5)
    other = predict(screen, model, [name], cells=10, cell_types=["type_2"], controls="none", seed=1)
    assert not np.allclose(of(other, name, "type_2"), of(alone, name, "type_2"))


def test_windows_hold_different_controls_and_deal_the_predictions():
    windows = list(draw_windows(np.arange(5), 9, set_size=4, rng=np.random.default_rng(0)))
    assert [kept for _, kept in windows] == [3, 3, 3]
    assert all(len(set(controls)) == 4 for controls, _ in windows)
    assert [
        len(controls) for controls, _ in draw_windows(np.arange(2), 3, set_size=4, rng=np.random.default_rng(0))
    ] == [2, 2]


def test_a_table_with_limits(screen, model, vocabulary, tmp_path):
    one, two = vocabulary.perturbations[:2]
    table = tmp_path / "wanted.tsv"
    table.write_text(f"perturbation\tcells\tcell_type\n{one}\t3\ttype_1\n{two}\t30\ttype_3\n")
    predicted = predict(screen, model, table, min_cells=5, max_cells=20, controls="none")
    assert predicted.obs.astype(str).value_counts(["perturbation", "cell_type"]).to_dict() == {
        (one, "type_1"): 5, (two, "type_3"): 20,
    }  # fmt: skip


def test_simulated_controls_replace_the_real_ones_and_nothing_else(screen, model, vocabulary):
    real, simulated = (predict(screen, model, "all", cells=4, controls=kind) for kind in ("real", "simulated"))
    control, name = vocabulary.control_perturbation, vocabulary.perturbations[0]
    assert of(simulated, control, "type_1").shape == of(real, control, "type_1").shape
    assert not np.allclose(of(simulated, control, "type_1"), of(real, control, "type_1"))
    np.testing.assert_allclose(of(simulated, name, "type_1"), of(real, name, "type_1"), atol=1e-5)


def test_counts_are_whole_and_have_the_depth(screen, model, vocabulary):
    predicted = predict(screen, model, "all", cells=4, emit="counts", depth=100, counts_slot="layers/counts")
    control = vocabulary.control_perturbation
    drawn = predicted[(predicted.obs["perturbation"] != control).to_numpy()].X
    np.testing.assert_array_equal(np.asarray(drawn.sum(axis=1)).ravel(), 100)
    np.testing.assert_array_equal(predicted.X.data, np.rint(predicted.X.data))
    shares = draw_counts(np.log1p(np.array([[1.0, 3.0]])), np.array([40_000]), is_log1p=True,
                         rng=np.random.default_rng(0))  # fmt: skip
    assert shares[0, 0] == pytest.approx(10_000, rel=0.03)


def test_rounded_counts_are_next_to_their_shares_and_right_on_average():
    rng = np.random.default_rng(0)
    cells = np.where(rng.random((400, 30)) < 0.5, 0, rng.gamma(2, 1, (400, 30)))
    cells[7] = 0
    depths = rng.integers(1, 5000, 400)
    counts = round_counts(cells, depths, is_log1p=True, rng=rng)
    expected = np.expm1(cells) / np.maximum(np.expm1(cells).sum(axis=1, keepdims=True), 1e-9) * depths[:, None]
    assert (np.abs(counts - expected) < 1).all()
    np.testing.assert_array_equal(counts[cells == 0], 0)
    np.testing.assert_array_equal(counts.sum(axis=1), np.where(np.arange(400) == 7, 0, depths))
    # Rounding moves a count by 1 with the chance of its fraction: variance at most 1/4.
    assert np.abs((counts - expected).sum(axis=0)).max() < 4.5 * np.sqrt(400 / 4)


def test_counts_of_a_mixed_model_are_those_of_its_tilted_cells(screen, vocabulary):
    config = PerturbationBaselineConfig(
        method="mixed_effects", input_dim=20, num_perturbations=5, num_cell_types=2, feature_key="X", cell_set_length=8
    )
    baseline = PerturbationBaseline(config)
    baseline.vocabulary = vocabulary
    baseline.mixed_effects.treated.data.fill_(0.5)
    baseline.mixed_effects.noise.data.fill_(1)
    options = {"cells": 9, "controls": "none", "depth": 10_000, "counts_slot": "layers/counts"}
    counts = predict(screen, baseline, [vocabulary.perturbations[1]], emit="counts", **options)
    tilted = predict(screen, baseline, [vocabulary.perturbations[1]], emit="tilted", cells=9, controls="none")
    assert counts.uns["prediction"]["counts_drawn"].startswith("shares")
    shares = np.expm1(tilted.X.toarray().astype(float))
    shares /= shares.sum(axis=1, keepdims=True)
    assert (np.abs(counts.X.toarray() - 10_000 * shares) < 1 + 1e-2).all()


def test_a_combination_is_the_sum_of_its_members(screen, vocabulary):
    config = PerturbationBaselineConfig(
        method="perturbation_mean", input_dim=20, num_perturbations=5, feature_key="X", cell_set_length=8
    )
    baseline = PerturbationBaseline(config)
    baseline.vocabulary = vocabulary
    baseline.shifts += torch.arange(5).unsqueeze(1)
    one, two = vocabulary.perturbations[1:3]
    options = {"cells": 6, "cell_types": ["type_1"], "controls": "none"}
    with torch.no_grad():
        baseline.shifts[vocabulary.perturbation_id(vocabulary.control_perturbation)] = 0
    sums = predict(screen, baseline, [f"{one}+{two}"], **options).X.todense().sum()
    assert sums > 0


@pytest.fixture
def with_pairs():
    """A baseline that shifts all genes by a number for each perturbation; a pair by less than its members."""
    config = PerturbationBaselineConfig(
        method="perturbation_mean", input_dim=20, num_perturbations=7, feature_key="X", cell_set_length=8
    )
    baseline = PerturbationBaseline(config)
    genes = [f"GENE{number:04d}" for number in range(20)]
    names = ["ctrl", "TNF+IFNG", "TNF", "IFNG", "FOO+ctrl", "HLA-A+", "CD3+ T"]
    baseline.vocabulary = PerturbationVocabulary(names, "ctrl", ["all"], ["type_1"], genes)
    baseline.shifts += torch.tensor([0.0, 0.5, 1.0, 2.0, 4.0, 0.25, 0.125]).unsqueeze(1)
    obs = pd.DataFrame({"perturbation": ["NT"] * 8, "cell_type": "type_1"}, index=[f"c{number}" for number in range(8)])
    return baseline, anndata.AnnData(np.full((8, 20), 1.25, np.float32), obs=obs, var=pd.DataFrame(index=genes))


@pytest.mark.parametrize(
    ("label", "shift"),
    [
        ("TNF+IFNG", 0.5),
        ("IFNG+TNF", 0.5),
        ("IFNG+NT+TNF", 0.5),
        ("NT+TNF", 1.0),
        ("FOO", 4.0),
        ("NT+FOO", 4.0),
        ("FOO+TNF", 5.0),
        ("HLA-A+", 0.25),
        ("HLA-A++TNF", 1.25),
        ("CD3+ T", 0.125),
        ("CD3+ T+TNF", 1.125),
        ("NT", 0.0),
    ],
)
def test_a_perturbation_is_found_however_it_is_spelt(with_pairs, label, shift):
    model, cells = with_pairs
    predicted = predict(cells, model, [label], cells=3, control="NT", controls="none")
    assert set(predicted.obs["perturbation"]) == {label}
    np.testing.assert_allclose(predicted.X.toarray(), 1.25 + shift)


def test_the_groups_of_a_file_keep_its_spelling(with_pairs, caplog):
    model, controls = with_pairs
    perturbed = controls[:5].copy()
    perturbed.obs["perturbation"] = ["IFNG+TNF", "IFNG+TNF", "TNF+NT", "NT+TNF", "NT+TNF"]
    cells = anndata.concat([controls, perturbed], index_unique="-")
    predicted = predict(cells, model, control="NT", controls="none")
    assert predicted.obs["perturbation"].value_counts().to_dict() == {"NT+TNF": 3, "IFNG+TNF": 2}
    asked = predict(cells, model, ["TNF", "TNF+NT"], cells=2, control="NT", controls="none")
    np.testing.assert_array_equal(*(of(asked, label, "type_1") for label in ("TNF", "TNF+NT")))
    assert "'TNF' and 'TNF+NT' are one perturbation" in caplog.text


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("tnf", "what is to be predicted has the label 'tnf', and the model .* 'TNF', which differ in upper and lower"),
        ("TNF ", "'TNF', which differ in spaces only"),
        (
            "TNF+foo",
            r"'TNF\+foo' \(of which 'foo'\), and the model \(perturbation names\) 'FOO\+ctrl' \(of which 'FOO'\)",
        ),
        ("TNF+Nt", r"'TNF\+Nt' \(of which 'Nt'\), and obs 'NT'"),
        ("nan", "a perturbation is a label, a text or a number, and not 'nan'"),
    ],
)
def test_names_that_look_like_a_models_are_refused(with_pairs, label, message):
    model, cells = with_pairs
    for on_unknown in ("error", "control"):
        with pytest.raises(ValueError, match=message):
            predict(cells, model, [label], cells=3, control="NT", controls="none", on_unknown=on_unknown)


def test_labels_of_the_file_that_look_like_a_models_are_refused(with_pairs):
    model, controls = with_pairs
    cells = controls.copy()
    cells.obs["cell_type"] = "Type_1"
    with pytest.raises(
        ValueError, match=r"has the label 'Type_1', and the model \(cell type names\) 'type_1', which diff"
    ):
        predict(cells, model, ["TNF"], cells=3, control="NT", controls="none")
    assert predict(cells, model, ["TNF"], cells=3, control="NT", controls="none", distinct_case=True).n_obs == 3
    cells = controls.copy()
    cells.obs["perturbation"] = ["NT"] * 7 + ["Tnf"]
    with pytest.raises(ValueError, match=r"'Tnf', and the model \(perturbation names\) 'TNF'"):
        predict(cells, model, ["TNF"], cells=3, control="NT", controls="none")


def test_labels_that_are_numbers(with_pairs):
    model, cells = with_pairs
    names = ["0", "7+3", "7", "3", "4", "5", "6"]
    model.vocabulary = PerturbationVocabulary(names, "0", ["all"], ["1"], model.vocabulary.genes)
    cells.obs["perturbation"], cells.obs["cell_type"] = 0.0, 1.0
    for control in (0, 0.0, "0", np.int8(0), None):
        predicted = predict(cells, model, [7.0, "3+7"], cells=2, cell_types=[1], control=control, controls="none")
        np.testing.assert_allclose(of(predicted, "7", "1"), 2.25)
        np.testing.assert_allclose(of(predicted, "3+7", "1"), 1.75)


def test_a_table_may_name_the_cell_type_of_some_rows(with_pairs, tmp_path):
    model, cells = with_pairs
    table = tmp_path / "wanted.csv"
    table.write_text("perturbation,cells,cell_type\nTNF,2,type_1\nIFNG,1,\n")
    predicted = predict(cells, model, table, control="NT", controls="none")
    assert predicted.obs["perturbation"].value_counts().to_dict() == {"TNF": 2, "IFNG": 1}
    table.write_text("perturbation,cells\n,2\n")
    with pytest.raises(ValueError, match="a perturbation of the table is a label"):
        predict(cells, model, table, control="NT")


def test_what_is_unknown_is_named(screen, model, caplog):
    with pytest.raises(ValueError, match=r"and not 'GENE00001'; did you mean"):
        predict(screen, model, ["GENE00001"], cells=3)
    with pytest.raises(ValueError, match="no cell type 'type_9'; did you mean"):
        predict(screen, model, "all", cells=3, cell_types=["type_9"])
    assert predict(screen, model, ["GENE00001"], cells=3, on_unknown="control", controls="none").n_obs == 9


def test_faults(screen, model, tmp_path):
    with pytest.raises(ValueError, match="no cell labelled 'contrl', the control; known: "):
        predict(screen, model, control="contrl")
    counts = screen.copy()
    counts.X = counts.layers["counts"] * 100
    with pytest.raises(ValueError, match=r"X of .* is read as log1p, but holds counts.*state-hf preprocess"):
        predict(counts, model)
    with pytest.raises(ValueError, match="lacks 1 of the model's 20"):
        predict(screen[:, 1:].copy(), model)
    with pytest.raises(ValueError, match="name their slot"):
        predict(screen, model, emit="counts")
    (tmp_path / "there.h5ad").write_text("")
    with pytest.raises(FileExistsError, match="exists"):
        predict(screen, model, output=tmp_path / "there.h5ad")


@pytest.mark.parametrize("decoder", ["mlp", "negative_binomial"])
def test_decoded_genes_are_in_x_and_their_embedding_in_obsm(screen, split, vocabulary, decoder):
    torch.manual_seed(0)
    model = state_transition_model(
        vocabulary, input_dim=6, feature_key="X_emb", gene_decoder=decoder, gene_dim=20, gene_decoder_hidden_sizes=[8]
    ).eval()
    screen = screen.copy()
    screen.obsm["X_emb"] = np.random.default_rng(0).normal(size=(screen.n_obs, 6)).astype(np.float32)
    slot = {"expression_slot": "layers/counts"} if decoder == "negative_binomial" else {}
    predicted = predict(screen, model, cell_types=["type_1"], **slot)
    assert predicted.uns["prediction"]["scale"] == ("counts" if slot else "log1p")
    assert list(predicted.var_names) == list(vocabulary.genes)
    assert predicted.obsm["X_emb"].shape == (predicted.n_obs, 6)
    controls = ((screen.obs["perturbation"] == "non-targeting") & (screen.obs["cell_type"] == "type_1")).to_numpy()
    written = (predicted.obs["perturbation"] == "non-targeting").to_numpy()
    np.testing.assert_array_equal(predicted.obsm["X_emb"][written], screen.obsm["X_emb"][controls])
    expected = screen.layers["counts"] if slot else screen.X
    np.testing.assert_array_equal(predicted.X[written].toarray(), expected[controls].toarray())
    with torch.no_grad():
        decoded = model.gene_decoder(torch.from_numpy(predicted.obsm["X_emb"][~written])).numpy()
    np.testing.assert_allclose(predicted.X[~written].toarray(), decoded, rtol=1e-4, atol=1e-5)


def test_genes_are_found_by_name(screen, model):
    np.testing.assert_allclose(
        predict(screen[:, ::-1].copy(), model, seed=3).X.todense(),
        predict(screen, model, seed=3).X.todense(),
        atol=1e-5,
    )


def test_npy_with_labels_beside_it(screen, model, tmp_path):
    path = predict(screen, model, "all", cells=3, controls="none", output=tmp_path / "cells.npy")
    labels = pd.read_csv(tmp_path / "cells.obs.csv")
    matrix = np.load(path)
    assert matrix.shape == (len(labels), 20)
    np.testing.assert_allclose(matrix, predict(screen, model, "all", cells=3, controls="none").X.todense(), atol=1e-6)


def test_an_interrupted_file_is_not_there(tmp_path):
    def fail():
        with cell_writer(tmp_path / "cells.h5ad", ["a"]) as writer:
            writer.add(np.ones((2, 1), dtype=np.float32), {"perturbation": "x"})
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_explained(tmp_path):
    with pytest.raises(OSError, match="The disk is full"), cell_writer(tmp_path / "cells.h5ad", ["a"]):
        raise OSError(28, "No space left on device")


def test_blocks_make_one_matrix(tmp_path):
    values = np.random.default_rng(0).poisson(0.5, (7, 3)).astype(np.float32)
    for dense in (False, True):
        with cell_writer(tmp_path / "cells.h5ad", ["a", "b", "c"], dense=dense) as writer:
            writer.add(values[:4], {"label": "x"})
            writer.add(values[4:], {"label": ["y", "y", "z"]})
        cells = anndata.read_h5ad(tmp_path / "cells.h5ad")
        np.testing.assert_array_equal(cells.X if dense else cells.X.todense(), values)
        assert list(cells.obs["label"]) == list("xxxxyyz")


@pytest.mark.parametrize("emit", ["model", "tilted"])
def test_the_input_is_closed_again(tmp_path, vocabulary, emit):
    """Whoever predicts may write the screen anew; a file that is open refuses that."""
    path = tmp_path / "screen.h5ad"
    screen = normalised_screen()
    screen.write_h5ad(path)
    gc.disable()
    try:
        predict(path, state_transition_model(vocabulary), "all", cells=3, emit=emit)
        screen.write_h5ad(path)
    finally:
        gc.enable()
