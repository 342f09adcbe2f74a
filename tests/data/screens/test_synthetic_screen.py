import numpy as np
import pytest

from state_hf.data.screens.synthetic_screen import generate_screen

SMALL = {"num_perturbations": 4, "num_genes": 50, "cells_per_perturbation": 30, "controls": 60, "depth": 1000.0}


def test_labels_and_sizes():
    adata = generate_screen(**SMALL, num_cell_types=2, num_batches=3)
    assert adata.shape == (2 * (4 * 30 + 60), 50)
    sizes = adata.obs.groupby(["cell_type", "perturbation"], observed=True).size()
    assert (sizes.drop("non-targeting", level="perturbation") == 30).all()
    assert (sizes.xs("non-targeting", level="perturbation") == 60).all()
    assert (adata.obs.groupby(["cell_type", "perturbation", "batch"], observed=True).size() >= 30 // 3).all()
    assert set(adata.obs["perturbation"].cat.categories) - {"non-targeting"} <= set(adata.var_names)


def test_x_holds_counts():
    adata = generate_screen(**SMALL)
    assert adata.X.format == "csr"
    assert adata.X.dtype == np.float32
    assert (adata.X.data == np.rint(adata.X.data)).all()
    assert adata.X.min() >= 0
    assert 500 < np.median(np.asarray(adata.X.sum(axis=1))) < 2000


def test_counts_are_overdispersed():
    adata = generate_screen(**SMALL | {"controls": 400})
    controls = adata[(adata.obs["perturbation"] == "non-targeting") & (adata.obs["cell_type"] == "type_1")].X.toarray()
    mean, variance = controls.mean(axis=0), controls.var(axis=0)
    assert np.median(variance[mean > 5] / mean[mean > 5]) > 2


def test_the_target_gene_is_knocked_down():
    adata = generate_screen(**SMALL)
    shares = adata.X.toarray() / np.asarray(adata.X.sum(axis=1))
    control = np.asarray(adata.obs["perturbation"] == "non-targeting")
    for name in adata.obs["perturbation"].cat.categories.drop("non-targeting"):
        gene, cells = adata.var_names.get_loc(name), np.asarray(adata.obs["perturbation"] == name)
        assert shares[cells, gene].mean() < 0.6 * shares[control, gene].mean()


def test_same_seed_same_screen():
    one, same, other = (generate_screen(**SMALL, seed=seed) for seed in (1, 1, 2))
    assert (one.X != same.X).nnz == 0
    assert one.obs.equals(same.obs)
    assert (one.X != other.X).nnz > 0


def test_a_reference_gives_genes_and_profile():
    reference = generate_screen(**SMALL | {"num_genes": 30}, seed=5)
    reference.var_names = [f"real_{number}" for number in range(30)]
    adata = generate_screen(**SMALL, reference=reference)
    assert adata.var_names.equals(reference.var_names)
    totals = [np.asarray(data.X.sum(axis=0)).ravel() for data in (adata, reference)]
    assert np.corrcoef(np.log1p(totals))[0, 1] > 0.8


def test_bad_arguments():
    with pytest.raises(ValueError, match="only 25 of the 50 genes"):
        generate_screen(**SMALL | {"num_perturbations": 26})
    scaled = generate_screen(**SMALL)
    scaled.X = scaled.X.multiply(-1).tocsr()
    with pytest.raises(ValueError, match="must hold counts"):
        generate_screen(**SMALL, reference=scaled)


def test_what_perturbations_move_is_told():
    adata = generate_screen(num_perturbations=20, num_genes=200, cells_per_perturbation=100, seed=1)
    moves = adata.uns["programme_moves"]
    assert set(moves.index) == set(adata.obs["perturbation"].cat.categories) - {"non-targeting"}
    assert set((moves != 0).sum(axis=1)) == {1, 2}
    counts = adata.to_df().div(np.asarray(adata.X.sum(axis=1)).ravel(), axis=0) * 1e4
    means = np.log1p(counts).groupby(adata.obs["perturbation"].astype(str)).mean()
    size = (means.drop("non-targeting") - means.loc["non-targeting"]).abs().mean(axis=1)
    # The strong ones move most genes most.
    assert np.corrcoef(size, moves.abs().sum(axis=1).loc[size.index])[0, 1] > 0.8
