import tarfile

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData, read_h5ad
from scipy import sparse

from state_hf.data.screens.prediction_record import PredictionRecord
from state_hf.data.screens.vcc_archive import opened, unpack
from state_hf.pipelines.prep import check_counts_submission, plan_submission, read_gene_list, write_submission

GENES = ["A", "B", "C"]
COUNTS = np.array([[1, 1, 2], [2, 0, 0], [0, 0, 0], [4, 4, 0]], dtype=np.float32)
LABELS = ["non-targeting", "A", "A", "B"]


def prediction(x=COUNTS, genes=GENES, labels=LABELS):
    obs = pd.DataFrame({"perturbation": labels, "line": "H1", "other": 1}, index=[f"c{i}" for i in range(len(labels))])
    return AnnData(x, obs=obs, var=pd.DataFrame({"extra": 1}, index=pd.Index(genes, dtype=str)))


def roundtrip(plan, folder):
    unpack(write_submission(plan, folder / "x.prep.vcc"), folder / "pred.h5ad")
    return read_h5ad(folder / "pred.h5ad")


def test_counts_are_normalised_to_the_median_and_logged(tmp_path):
    written = roundtrip(plan_submission(prediction(), GENES), tmp_path)
    # Totals are 4, 2, 0 and 8; the median of those above zero is 4.
    expected = np.log1p([[1, 1, 2], [4, 0, 0], [0, 0, 0], [2, 2, 0]])
    np.testing.assert_allclose(written.X.toarray(), expected, rtol=1e-6)
    assert sparse.isspmatrix_csr(written.X)
    assert written.X.dtype == np.float32
    assert list(written.obs.columns) == ["target_gene"]
    assert list(written.obs["target_gene"]) == LABELS
    assert list(written.obs_names) == ["0", "1", "2", "3"]
    assert list(written.var_names) == GENES
    assert list(written.var.columns) == []


@pytest.mark.parametrize("layout", [np.asarray, sparse.csr_matrix, sparse.csc_matrix])
@pytest.mark.parametrize("backed", [False, True])
def test_lognorm_values_are_kept_whatever_the_storage_and_block(layout, backed, tmp_path, monkeypatch):
    monkeypatch.setattr("state_hf.pipelines.prep._BLOCK_VALUES", 3)
    x = np.log1p(COUNTS)
    source = prediction(layout(x))
    if backed:
        source.write_h5ad(tmp_path / "in.h5ad")
        source = read_h5ad(tmp_path / "in.h5ad", backed="r")
    written = roundtrip(plan_submission(source, GENES, cell_type_key="line"), tmp_path)
    np.testing.assert_array_equal(written.X.toarray(), x)
    assert list(written.obs.columns) == ["target_gene", "celltype"]


def test_genes_are_reordered(tmp_path):
    x = np.log1p(COUNTS)
    plan = plan_submission(prediction(x[:, [2, 0, 1]], ["C", "A", "B"]), GENES)
    assert plan.reorder
    np.testing.assert_array_equal(roundtrip(plan, tmp_path).X.toarray(), x)


def test_integers_may_be_kept(tmp_path):
    written = roundtrip(plan_submission(prediction(), GENES, keep_scale=True), tmp_path)
    np.testing.assert_array_equal(written.X.toarray(), COUNTS)


def test_archive_holds_what_the_challenge_reads(tmp_path):
    path = write_submission(plan_submission(prediction(), GENES), tmp_path / "a.prep.vcc")
    with tarfile.open(path) as tar:
        assert tar.getnames() == ["pred.h5ad.zst", "watermark.txt"]
        assert tar.extractfile("watermark.txt").read() == b"vcc-prep"
        assert tar.extractfile("pred.h5ad.zst").read(4) == b"\x28\xb5\x2f\xfd"
    assert [p.name for p in tmp_path.iterdir()] == ["a.prep.vcc"]


def test_every_broken_rule_is_named_at_once():
    x = COUNTS.copy()
    x[0, 0] = -1
    bad = prediction(x, ["A", "b", "D"], ["control", "A", None, "B"])
    with pytest.raises(ValueError, match="rules of the 2025 submission") as caught:
        plan_submission(bad, GENES, max_cells=3)
    text = str(caught.value)
    assert "(6 problems)" in text
    for part in (
        "2 genes of the gene list missing from the prediction: 'B', 'C'; perhaps it has 'b' for 'B'",
        "2 genes of the prediction not in the gene list: 'D', 'b'",
        "1 cells without a label in obs['perturbation']",
        "no cell has the control label 'non-targeting'",
        "4 cells, 3 are allowed",
        "1 negative value: first -1 in cell 'c0' (row 0), gene 'A'",
    ):
        assert part in text


def test_large_integers_are_no_lognorm_values():
    with pytest.raises(ValueError, match="the largest, 40, is no log-normalised one"):
        plan_submission(prediction(COUNTS * 10), GENES, keep_scale=True)


def test_sizes_are_estimated():
    plan = plan_submission(prediction(), GENES)
    assert plan.nonzero == 6
    assert plan.uncompressed_bytes == 8 * 6 + sum(map(len, LABELS)) + 3 + 8 * 4
    assert plan.compressed_bytes > 0


def test_a_full_disk_is_noticed_before_anything_is_written(tmp_path, monkeypatch):
    plan = plan_submission(prediction(), GENES)
    plan.uncompressed_bytes = 10**18
    with pytest.raises(OSError, match=r"takes about 1000000000\.0 GB of disk"):
        write_submission(plan, tmp_path / "a.prep.vcc")
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr("state_hf.pipelines.prep.pack", fail)
    with pytest.raises(OSError, match="no space"):
        write_submission(plan_submission(prediction(), GENES), tmp_path / "a.prep.vcc")
    assert list(tmp_path.iterdir()) == []


def test_name_of_the_file(tmp_path):
    with pytest.raises(ValueError, match=r"named \*\.prep\.vcc"):
        write_submission(plan_submission(prediction(), GENES), tmp_path / "a.vcc")


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"nothing", "is not a .vcc archive"), (None, r"holds \['x'\] instead of")],
)
def test_other_files_are_not_archives(content, reason, tmp_path):
    path = tmp_path / "a.prep.vcc"
    if content is None:
        (tmp_path / "x").write_bytes(b"")
        with tarfile.open(path, "w") as tar:
            tar.add(tmp_path / "x", "x")
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=reason), opened(path):
        pass


def test_2026_rules():
    summary = check_counts_submission(prediction(), GENES)
    assert summary.totals.max() == 8
    with pytest.raises(ValueError, match="rules of the 2026 submission") as caught:
        check_counts_submission(prediction(COUNTS[:, ::-1] + 0.5, GENES[::-1]), GENES, max_counts_per_cell=9)
    text = str(caught.value)
    assert "another order: reorder with prediction[:, genes]" in text
    assert "must hold raw counts, but has 12 values with a fraction" in text
    assert "1 cell with more than 9 counts: first 'c3' (row 3) with 10" in text


def test_gene_list(tmp_path):
    path = tmp_path / "genes.csv"
    path.write_text("A,1\nB\n\nC\n")
    assert read_gene_list(path) == GENES
    path.write_text("A\nB\nA\n")
    with pytest.raises(ValueError, match="more than once: 'A'"):
        read_gene_list(path)
    path.write_text("\n")
    with pytest.raises(ValueError, match="lists no gene"):
        read_gene_list(path)


def test_columns_are_those_that_the_prediction_records(tmp_path):
    record = PredictionRecord(
        perturbation_key="guide", control="NT", controls="real", cell_type_key="", batch_key="", scale="counts",
        target_sum=-1, feature_key="X", num_genes=3, emit="counts", counts_drawn="", depth="", model="", model_type="",
        model_digest="", cell_set_length=8, seed=0, split="", groups={("all", "A"): "test"}, state_hf_version="0",
    )  # fmt: skip
    source = prediction(labels=["NT", "A", "A", "B"])
    source.obs = source.obs.rename(columns={"perturbation": "guide"})
    source.uns["prediction"] = record.to_uns()
    assert list(plan_submission(source, GENES).labels["target_gene"]) == ["NT", "A", "A", "B"]
    check_counts_submission(source, GENES)
    with pytest.raises(ValueError, match="no obs column 'perturbation'"):
        check_counts_submission(source, GENES, perturbation_key="perturbation")
