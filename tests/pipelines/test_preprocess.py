import shutil

import anndata
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from scipy import sparse

from state_hf.cli import main
from state_hf.data.screens.knockdown_filter import KnockdownFilter
from state_hf.data.screens.synthetic_screen import generate_screen
from state_hf.pipelines.preprocess import preprocess
from state_hf.tokenization.cell_matrix import layer_names


@pytest.fixture(scope="module")
def screen():
    adata = generate_screen(num_perturbations=5, num_genes=400, cells_per_perturbation=20, controls=40, depth=500.0)
    adata.obsm["X_pca"] = adata.X[:, :3].toarray()
    adata.obsm["table"] = pd.DataFrame({"a": np.arange(adata.n_obs)}, index=adata.obs_names)
    adata.uns["study"] = "synthetic"
    return adata


@pytest.fixture
def source(screen, tmp_path):
    path = tmp_path / "counts.h5ad"
    screen.write_h5ad(path)
    return path


def with_scanpy(adata, *, target_sum=None, genes=50):
    expected = anndata.AnnData(sparse.csr_matrix(adata.X, dtype=np.float32), obs=adata.obs, var=adata.var)
    sc.pp.normalize_total(expected, target_sum=target_sum)
    sc.pp.log1p(expected)
    sc.pp.highly_variable_genes(expected, n_top_genes=genes, flavor="seurat")
    return expected


def assert_same(written, expected):
    assert isinstance(written.X, sparse.csr_matrix)
    np.testing.assert_allclose(written.X.toarray(), expected.X.toarray(), rtol=1e-6, atol=1e-6)
    assert written.var["highly_variable"].tolist() == expected.var["highly_variable"].tolist()
    np.testing.assert_array_equal(
        written.obsm["X_hvg"], written.X[:, expected.var["highly_variable"].to_numpy()].toarray()
    )
    names = expected.var_names[expected.var["highly_variable"]]
    assert list(written.uns["X_hvg"]["var_names"]) == list(names)


@pytest.mark.parametrize("target_sum", ["median", 1e4])
def test_what_scanpy_gives(screen, source, tmp_path, target_sum):
    report = preprocess(source, output=tmp_path / "out.h5ad", num_variable_genes=50, target_sum=target_sum)
    written = anndata.read_h5ad(tmp_path / "out.h5ad")
    assert_same(written, with_scanpy(screen, target_sum=None if target_sum == "median" else target_sum))
    assert written.obs.equals(screen.obs)
    np.testing.assert_array_equal(written.obsm["X_pca"], screen.obsm["X_pca"])
    assert written.obsm["table"].equals(screen.obsm["table"])
    assert written.uns["study"] == "synthetic"
    assert written.uns["preprocess"]["target_sum"] == report.target_sum
    assert written.uns["preprocess"]["scale"] == "log1p"
    assert str(report).startswith(f"kept {screen.n_obs} of {screen.n_obs} cells | dropped none | normalised to ")


@pytest.mark.parametrize("layout", ["csc", "dense", "float64", "int32", "layer", "compressed"])
def test_every_layout(screen, source, tmp_path, layout, monkeypatch):
    monkeypatch.setattr("state_hf.data.whole_counts._BLOCK_BYTES", 100_000)
    adata = screen.copy()
    changed = {
        "csc": lambda counts: counts.tocsc(),
        "dense": lambda counts: counts.toarray(),
        "float64": lambda counts: counts.astype(np.float64),
        "int32": lambda counts: counts.astype(np.int32),
    }
    if layout == "layer":
        adata.layers["counts"], adata.X = adata.X.copy(), adata.X.log1p()
    elif layout in changed:
        adata.X = changed[layout](adata.X)
    adata.write_h5ad(source, compression="gzip" if layout == "compressed" else None)
    layer = "counts" if layout == "layer" else None
    report = preprocess(source, output=tmp_path / "out.h5ad", num_variable_genes=50, layer=layer)
    assert_same(anndata.read_h5ad(tmp_path / "out.h5ad"), with_scanpy(screen))
    assert report.left_out == (["X (as it was)", "layers/counts"] if layout == "layer" else [])


def test_real_cells_as_scanpy(shared_data, tmp_path):
    source = shared_data / "perturb_papalexi2021_thp1_eccite.h5ad"
    preprocess(source, output=tmp_path / "out.h5ad", num_variable_genes=100)
    expected = with_scanpy(anndata.read_h5ad(source), genes=100)
    assert_same(anndata.read_h5ad(tmp_path / "out.h5ad"), expected)


def test_knockdown_filter_comes_before_the_median_and_the_ranking(screen, source, tmp_path):
    thresholds = KnockdownFilter(min_cells=10)
    report = preprocess(source, output=tmp_path / "out.h5ad", num_variable_genes=50, knockdown=thresholds)
    written = anndata.read_h5ad(tmp_path / "out.h5ad")
    assert 0 < written.n_obs == report.cells_written < screen.n_obs
    assert (written.obs["perturbation"] == "non-targeting").sum() == 120
    dropped = sum(cells for cells, _ in report.dropped.values())
    assert written.n_obs + dropped == screen.n_obs
    assert_same(written, with_scanpy(screen[written.obs_names].copy()))
    assert written.obsm["table"]["a"].tolist() == np.flatnonzero(screen.obs_names.isin(written.obs_names)).tolist()
    shares = screen.X.toarray() / np.asarray(screen.X.sum(axis=1))
    control = np.asarray(screen.obs["perturbation"] == "non-targeting")
    for name, label in zip(screen.obs_names, screen.obs["perturbation"], strict=True):
        if label != "non-targeting" and name in written.obs_names:
            gene = screen.var_names.get_loc(label)
            assert shares[screen.obs_names.get_loc(name), gene] < 0.5 * shares[control, gene].mean()


@pytest.mark.parametrize("kind", ["A+ctrl", "ctrl+A", "both", "numbers"])
def test_the_knockdown_filter_takes_labels_for_what_they_mean(screen, tmp_path, kind):
    labels = screen.obs["perturbation"].astype(str).replace({"non-targeting": "ctrl"})
    single = labels != "ctrl"
    even = np.arange(len(labels)) % 2 == 0
    renamed, genes, control = labels.copy(), list(screen.var_names), "ctrl"
    if kind in ("A+ctrl", "both"):
        renamed[single] += "+ctrl"
    if kind in ("ctrl+A", "both"):
        chosen = single & even if kind == "both" else single
        renamed[chosen] = "ctrl+" + labels[chosen]
    if kind == "numbers":  # genes named by numbers, as Entrez does, in a float column
        numbers = {gene: number for number, gene in enumerate(genes, start=1)}
        renamed = labels.replace({"ctrl": "0"}).map(lambda label: float(numbers.get(label, 0)))
        genes, control = [str(numbers[gene]) for gene in genes], 0
    kept = []
    for number, (column, names, name) in enumerate([(labels, screen.var_names, "ctrl"), (renamed, genes, control)]):
        adata = anndata.AnnData(screen.X, obs=pd.DataFrame({"p": column}, index=screen.obs_names))
        adata.var_names = names
        adata.write_h5ad(tmp_path / f"{number}.h5ad")
        output = tmp_path / f"{number}_out.h5ad"
        options = {"perturbation_key": "p", "control": name, "knockdown": KnockdownFilter(min_cells=10)}
        preprocess(tmp_path / f"{number}.h5ad", output=output, num_variable_genes=50, **options)
        kept.append(anndata.read_h5ad(output).obs)
    assert list(kept[1].index) == list(kept[0].index)
    assert len(kept[0]) < screen.n_obs
    # Labels are written as they were.
    assert kept[1]["p"].astype(str).tolist() == renamed[kept[1].index].astype(str).tolist()


def test_a_filter_that_leaves_no_perturbed_cell_is_an_error(screen, source, tmp_path, capsys):
    drugs, renamed = screen.copy(), tmp_path / "drugs.h5ad"
    drugs.obs["perturbation"] = drugs.obs["perturbation"].astype(str).replace(r"^(?=GENE)", "drug ", regex=True)
    drugs.write_h5ad(renamed)
    words = ["preprocess", str(renamed), "--output", str(tmp_path / "out.h5ad"), "--filter-knockdown"]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "the knock-down filter leaves no perturbed cell of" in error
    assert "cells whose target is no gene of the file (5 perturbations: " in error
    assert "--gene-column" in error
    assert not (tmp_path / "out.h5ad").exists()
    with pytest.raises(ValueError, match="leaves no perturbed cell"):
        preprocess(source, output=tmp_path / "out.h5ad", knockdown=KnockdownFilter(min_cells=1000))


def test_given_genes_keep_their_order(screen, source, tmp_path):
    genes = ["GENE0007", "GENE0003", "GENE0400"]
    report = preprocess(source, output=tmp_path / "out.h5ad", genes=genes, keep_counts=True)
    written = anndata.read_h5ad(tmp_path / "out.h5ad")
    np.testing.assert_array_equal(written.obsm["X_hvg"], written[:, genes].X.toarray())
    assert report.variable_genes == list(written.uns["X_hvg"]["var_names"]) == genes
    assert (written.layers["counts"] != screen.X).nnz == 0
    with pytest.raises(ValueError, match=r"lacks 1 of the 2 genes, as 'GEN0003'; did you mean 'GENE0003'"):
        preprocess(source, output=tmp_path / "other.h5ad", genes=["GENE0003", "GEN0003"])


def test_gene_names_in_a_column(screen, source, tmp_path):
    adata = screen.copy()
    adata.var["symbol"] = adata.var_names
    adata.var_names = [f"ENSG{number}" for number in range(adata.n_vars)]
    adata.write_h5ad(source)
    report = preprocess(source, output=tmp_path / "out.h5ad", genes=["GENE0003"], gene_column="symbol")
    assert report.variable_genes == ["GENE0003"]
    with pytest.raises(ValueError, match="no column 'symbols'; did you mean 'symbol'"):
        preprocess(source, output=tmp_path / "other.h5ad", gene_column="symbols")


def test_cells_without_counts_are_dropped_and_reported(screen, source, tmp_path):
    adata = screen.copy()
    adata.X = sparse.vstack([adata.X[:-2], sparse.csr_matrix((2, 400), dtype=np.float32)], format="csr")
    adata.write_h5ad(source)
    report = preprocess(source, output=tmp_path / "out.h5ad")
    assert report.cells_written == screen.n_obs - 2
    assert "dropped 2 cells without any count" in str(report)


def test_what_is_refused(screen, source, tmp_path):
    before = source.read_bytes()
    with pytest.raises(ValueError, match="is the input, which is never changed"):
        preprocess(source, output=source, overwrite=True)
    output = tmp_path / "out.h5ad"
    output.write_text("precious")
    with pytest.raises(FileExistsError, match=r"out\.h5ad exists"):
        preprocess(source, output=output)
    with pytest.raises(ValueError, match=r"must be an \.h5ad file"):
        preprocess(source, output=tmp_path / "out.zarr")
    with pytest.raises(ValueError, match="'median', not -1"):
        preprocess(source, output=tmp_path / "new.h5ad", target_sum=-1)
    with pytest.raises(FileNotFoundError):
        preprocess(tmp_path / "none.h5ad", output=tmp_path / "new.h5ad")
    with pytest.raises(ValueError, match="no cell labelled 'ctrl', the control"):
        preprocess(source, output=tmp_path / "new.h5ad", knockdown=KnockdownFilter(), control="ctrl")
    assert output.read_text() == "precious"
    assert source.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["counts.h5ad", "out.h5ad"]


@pytest.mark.parametrize("at", [5, -5])
@pytest.mark.parametrize(
    ("value", "why"),
    [
        (0.5, r"does not hold raw counts: one value is 0.5; .*layer=\S+, or round .*round_counts=True"),
        (
            -1.0,
            r"(holds neither counts nor log1p values: some are negative, .* -1|one value is -1).*layer=\S+\)$",
        ),
        (np.nan, r"(holds neither counts nor log1p values: some are NaN|one value is nan).*layer=\S+\)$"),
    ],
)
def test_values_that_are_no_counts(screen, source, tmp_path, monkeypatch, value, why, at):
    monkeypatch.setattr("state_hf.data.whole_counts.SCALE_SAMPLE", 8)  # the last cell is not looked at
    adata = screen.copy()
    adata.X.data[at] = value
    adata.write_h5ad(source)
    with pytest.raises(ValueError, match=rf"X of .*counts\.h5ad .*{why}"):
        preprocess(source, output=tmp_path / "out.h5ad")


def test_normalised_values_are_no_counts_whatever_is_asked(screen, source, tmp_path):
    adata = with_scanpy(screen, target_sum=300.0)
    adata.obs["perturbation"] = screen.obs["perturbation"]
    adata.layers["scaled"] = adata.X.toarray() - 1
    adata.write_h5ad(source)
    for rounds in (False, True):
        with pytest.raises(ValueError, match=r"normalised already: .* add up to 300 counts each; .*layer=...\)"):
            preprocess(source, output=tmp_path / "out.h5ad", round_counts=rounds)
        with pytest.raises(ValueError, match=r"layers/scaled of .*neither counts nor log1p.*layer=\S+\)$"):
            preprocess(source, output=tmp_path / "out.h5ad", layer="scaled", round_counts=rounds)


def test_corrected_counts_are_rounded_to_the_nearest_on_request(screen, source, tmp_path):
    adata = screen.copy()
    adata.X.data = adata.X.data * 0.93 + 0.02  # what a correction for ambient RNA leaves
    adata.X.data[3] = 0.4
    adata.write_h5ad(source)
    report = preprocess(
        source, output=tmp_path / "out.h5ad", num_variable_genes=50, keep_counts=True, round_counts=True
    )
    written = anndata.read_h5ad(tmp_path / "out.h5ad")
    whole = adata.copy()
    whole.X.data = np.rint(adata.X.data)
    whole.X.eliminate_zeros()
    assert_same(written, with_scanpy(whole))
    assert (written.layers["counts"] != whole.X).nnz == 0
    assert written.layers["counts"].nnz == whole.X.nnz
    change = whole.X.sum() / adata.X.sum(dtype=np.float64) - 1
    assert report.rounding == pytest.approx(change, rel=1e-4)
    assert str(report).startswith(f"rounded to whole counts, which changed their sum by {change:+.2%} | kept ")
    assert written.uns["preprocess"]["rounded"]


def test_whole_counts_are_as_they_were_with_rounding(screen, source, tmp_path):
    report = preprocess(source, output=tmp_path / "out.h5ad", num_variable_genes=50, round_counts=True)
    assert report.rounding is None
    assert "rounded" not in str(report)
    assert_same(anndata.read_h5ad(tmp_path / "out.h5ad"), with_scanpy(screen))


def test_deep_cells_are_thinned_on_request(screen, source, tmp_path, monkeypatch):
    totals = screen.X.sum(axis=1).A1
    depth = int(np.median(totals))
    options = {"num_variable_genes": 50, "keep_counts": True, "reference_depth": depth}
    report = preprocess(source, output=tmp_path / "out.h5ad", **options)
    written = anndata.read_h5ad(tmp_path / "out.h5ad")
    counts = written.layers["counts"]
    np.testing.assert_array_equal(counts.sum(axis=1).A1, np.minimum(totals, depth))
    assert (counts > screen.X).nnz == 0  # nothing is added
    assert (counts[totals <= depth] != screen.X[totals <= depth]).nnz == 0
    assert counts.nnz == counts.count_nonzero()
    assert report.thinned == (totals > depth).sum()
    assert str(report).startswith(f"thinned {report.thinned} cells to {depth:,} counts | kept ")
    assert (written.uns["preprocess"]["reference_depth"], written.uns["preprocess"]["seed"]) == (depth, 0)
    assert_same(written, with_scanpy(anndata.AnnData(counts.copy(), obs=screen.obs, var=screen.var)))
    # Of every gene the share is kept: sampled without replacement, so with a variance below the binomial one.
    deep = totals > depth
    expected = (screen.X[deep].toarray() * (depth / totals[deep])[:, None]).sum(axis=0)
    assert (np.abs(counts[deep].sum(axis=0).A1 - expected) < 5 * np.sqrt(expected) + 1e-9).all()
    # The draw is the cell's own, however the file is cut into blocks.
    monkeypatch.setattr("state_hf.data.whole_counts._BLOCK_BYTES", 1)
    preprocess(source, output=tmp_path / "blocks.h5ad", **options)
    assert (anndata.read_h5ad(tmp_path / "blocks.h5ad").layers["counts"] != counts).nnz == 0
    preprocess(source, output=tmp_path / "other.h5ad", seed=1, **options)
    assert (anndata.read_h5ad(tmp_path / "other.h5ad").layers["counts"] != counts).nnz > 0
    with pytest.raises(ValueError, match="reference_depth is a number of counts from 1 on, not 0"):
        preprocess(source, output=tmp_path / "none.h5ad", reference_depth=0)


def test_cells_without_a_gene_that_varies(screen, source, tmp_path):
    screen[:1].copy().write_h5ad(source)
    with pytest.raises(ValueError, match=r"no gene of .*counts\.h5ad varies over the 1 cells that are kept.*genes="):
        preprocess(source, output=tmp_path / "out.h5ad")
    assert preprocess(source, output=tmp_path / "out.h5ad", genes=["GENE0001"]).variable_genes == ["GENE0001"]
    screen.write_h5ad(source)
    with pytest.raises(ValueError, match="from 1 on, not 0"):
        preprocess(source, output=tmp_path / "other.h5ad", num_variable_genes=0)
    with pytest.raises(ValueError, match=r"list of genes to take is empty"):
        preprocess(source, output=tmp_path / "other.h5ad", genes=[])


def test_what_speaks_of_slots_that_are_left_behind_goes_with_them(screen, source, tmp_path):
    adata = screen.copy()
    adata.obsm["place"] = np.random.default_rng(0).normal(size=(adata.n_obs, 3))
    sc.pp.neighbors(adata, n_neighbors=5, use_rep="place")
    sc.pp.neighbors(adata, n_neighbors=5, use_rep="place", key_added="others")
    adata.uns["old"] = {"connectivities": adata.obsp["connectivities"], "params": {"n_neighbors": 5}}
    adata.varm["PCs"] = np.zeros((adata.n_vars, 2))
    adata.write_h5ad(source)
    report = preprocess(source, output=tmp_path / "out.h5ad", num_variable_genes=50)
    written = anndata.read_h5ad(tmp_path / "out.h5ad")
    assert not {"neighbors", "others", "old"} & set(written.uns)
    assert written.uns["study"] == "synthetic"
    assert set(report.left_out) == {
        "obsp/connectivities", "obsp/distances", "obsp/others_connectivities", "obsp/others_distances", "varm/PCs",
        "uns/neighbors", "uns/others", "uns/old",
    }  # fmt: skip
    assert "not carried over: obsp/connectivities" in str(report)


def test_what_was_preprocessed_is_preprocessed_again_from_its_counts(source, tmp_path):
    preprocess(source, output=tmp_path / "one.h5ad", num_variable_genes=50, keep_counts=True)
    with pytest.raises(ValueError, match=r"one.h5ad is normalised already.*layer="):
        preprocess(tmp_path / "one.h5ad", output=tmp_path / "two.h5ad")
    report = preprocess(
        tmp_path / "one.h5ad", output=tmp_path / "two.h5ad", layer="counts", target_sum=1e4, keep_counts=True
    )
    assert report.left_out == ["X (as it was)", "obsm/X_hvg (as it was)"]
    assert anndata.read_h5ad(tmp_path / "two.h5ad").uns["preprocess"]["target_sum"] == 1e4


@pytest.mark.parametrize(
    ("layer", "keep_counts", "left_out"),
    [
        ("counts", True, ["X (as it was)", "layers/other"]),
        ("counts", False, ["X (as it was)", "layers/counts", "layers/other"]),
        ("other", True, ["X (as it was)", "layers/counts (as it was)"]),
        (None, True, ["layers/counts (as it was)", "layers/other"]),
        ("raw", True, ["X (as it was)", "layers/counts (as it was)", "layers/other"]),
        ("raw", False, ["X (as it was)", "layers/counts", "layers/other", "raw"]),
    ],
)
def test_counts_that_are_kept_are_carried_over(screen, source, tmp_path, layer, keep_counts, left_out):
    adata = screen.copy()
    adata.layers["counts"], adata.layers["other"] = adata.X.copy(), adata.X.copy()
    if layer == "raw":
        adata.raw = adata.copy()
    adata.write_h5ad(source)
    report = preprocess(
        source, output=tmp_path / "out.h5ad", layer=layer, keep_counts=keep_counts, num_variable_genes=50
    )
    written = anndata.read_h5ad(tmp_path / "out.h5ad")
    assert report.left_out == left_out
    assert layer_names(written) == (["counts"] if keep_counts else [])
    if keep_counts:
        assert (written.layers["counts"] != screen.X).nnz == 0


def test_gene_names_that_occur_twice(screen, source, tmp_path):
    adata = screen.copy()
    adata.var_names = ["GENE"] * 2 + adata.var_names.tolist()[2:]
    adata.write_h5ad(source)
    with pytest.raises(ValueError, match=r"the genes of .* repeat names \(1, as 'GENE'\); make them unique"):
        preprocess(source, output=tmp_path / "out.h5ad")


def test_a_disk_that_is_too_small(source, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: shutil._ntuple_diskusage(1000, 0, 1000))
    with pytest.raises(OSError, match=r"The disk is full: 0\.\d GB are needed"):
        preprocess(source, output=tmp_path / "out.h5ad")
    assert [path.name for path in tmp_path.iterdir()] == ["counts.h5ad"]


def test_a_failure_while_writing_leaves_what_was_there(source, tmp_path, monkeypatch):
    output = tmp_path / "out.h5ad"
    output.write_text("precious")

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("state_hf.data.screens.preprocessed_file._CsrWriter.add", full)
    with pytest.raises(OSError, match="The disk is full, so the file was not written: make room and run again"):
        preprocess(source, output=output, overwrite=True)
    assert output.read_text() == "precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["counts.h5ad", "out.h5ad"]


def test_the_command(source, tmp_path, capsys):
    output = tmp_path / "out.h5ad"
    (tmp_path / "genes.txt").write_text("GENE0003\nGENE0001\n")
    arguments = ["preprocess", str(source), "--output", str(output), "--genes", str(tmp_path / "genes.txt")]
    assert main([*arguments, "--target-sum", "10000", "--filter-knockdown", "--min-cells", "5"]) == 0
    assert "normalised to 10000 counts and log1p | 2 variable genes" in capsys.readouterr().out
    assert list(anndata.read_h5ad(output).uns["X_hvg"]["var_names"]) == ["GENE0003", "GENE0001"]
    assert main(arguments) == 2
    assert "exists already; choose another name, or replace it (--overwrite)" in capsys.readouterr().err
