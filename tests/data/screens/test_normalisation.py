import logging

import anndata
import numpy as np
import pandas as pd
import pytest
from transformers.utils import logging as transformers_logging

from state_hf.data.cells.open_cells import open_cells
from state_hf.data.screens.normalisation import (
    Normalisation,
    agreed_total,
    check_counted_genes,
    normalisation,
    recorded_total,
    same_total,
)
from state_hf.data.screens.perturbation_screens import open_screens
from state_hf.data.screens.slot_scale import check_slot
from state_hf.tokenization.input_scale import look_at_values

RECORD = {"scale": "log1p", "target_sum": 1998.0, "genes_sha256": "abc"}


@pytest.fixture
def said(caplog):
    """Warnings of the library."""
    transformers_logging.enable_propagation()
    with caplog.at_level(logging.WARNING):
        yield lambda: [record.message for record in caplog.records]
    transformers_logging.disable_propagation()


def counts(num_cells=40, genes=50, seed=0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.poisson(rng.gamma(1.0, 4.0, genes), (num_cells, genes)).astype(np.float64)


def log1p_of(values: np.ndarray, target: float) -> np.ndarray:
    return np.log1p(values / values.sum(axis=1, keepdims=True) * target).astype(np.float32)


def screen(values: np.ndarray, **uns) -> anndata.AnnData:
    obs = pd.DataFrame(
        {"perturbation": ["non-targeting", "A"] * (len(values) // 2)}, index=[f"c{n}" for n in range(len(values))]
    )
    return anndata.AnnData(values, obs=obs, var=pd.DataFrame(index=[f"g{n}" for n in range(values.shape[1])]), uns=uns)


def screens_of(*sources):
    return open_screens({f"d{number}": source for number, source in enumerate(sources)}, cell_type_key=None)


def checked(*sources, slot="X", scale="log1p", **options):
    return check_slot(screens_of(*sources), slot, scale, "do this", **options)


def test_records_are_read_for_the_slots_that_they_are_of():
    assert recorded_total({"preprocess": RECORD}, "X") == (1998.0, "abc")
    assert recorded_total({"preprocess": RECORD}, "obsm/X_hvg") == (1998.0, "abc")
    assert recorded_total({"prediction": {"scale": "log1p", "target_sum": 1e4}}, "X") == (1e4, "")
    for slot in ("layers/counts", "raw/X", "obsm/X_state"):
        assert recorded_total({"preprocess": RECORD}, slot) is None


@pytest.mark.parametrize(
    "uns",
    [
        {},
        {"preprocess": None},
        {"preprocess": "by hand"},
        {"preprocess": {"target_sum": 1e4}},
        {"preprocess": {"scale": "log1p"}},
        {"preprocess": {**RECORD, "target_sum": "many"}},
        {"preprocess": {**RECORD, "target_sum": float("nan")}},
        {"prediction": {"scale": "log1p", "target_sum": -1.0}},
        {"prediction": {"scale": "counts", "target_sum": 1e4}},
    ],
)
def test_what_records_nothing(uns):
    assert recorded_total(uns, "X") is None


def test_values_are_believed_before_records(said):
    seen = look_at_values(log1p_of(counts(), 8079))
    assert normalisation({}, "X", "X of a", seen) == Normalisation("X of a", 8079.0)
    assert normalisation({"preprocess": RECORD}, "X", "X of a", seen) == Normalisation("X of a", 8079.0)
    assert said() == [
        "X of a: uns says that cells were normalised to 1,998 counts, but they add up to 8,079, which is believed"
    ]
    # A part of the genes shows no total; the record says it.
    part = look_at_values(log1p_of(counts(), 1998)[:, :20])
    assert normalisation({"preprocess": RECORD}, "obsm/X_hvg", "X_hvg of a", part).total == 1998.0


def test_totals_that_are_one():
    assert same_total(1998, 2001)
    assert not same_total(1998, 2050)
    # By which a log1p value changes at most.
    values = np.linspace(0, 1e5, 1000)
    assert np.abs(np.log1p(values * 1.01) - np.log1p(values)).max() < 0.01


def test_totals_of_several_files(said):
    one, other = Normalisation("X of a", 1998.0), Normalisation("X of b", 8079.0)
    unknown = Normalisation("X of c", None)
    assert agreed_total([]) is None
    assert agreed_total([unknown, unknown]) is None
    assert agreed_total([one, Normalisation("X of d", 2000.0)]) == 1998.0
    assert said() == []
    assert agreed_total([unknown, one]) == 1998.0
    assert "what X of c was normalised to is not known" in said()[0]
    with pytest.raises(ValueError, match=r"X of a is normalised to 1,998 .* X of b to 8,079.* --target-sum 1998`\)"):
        agreed_total([unknown, one, other])


@pytest.mark.parametrize("on_disk", [True, False])
def test_two_files_of_two_totals_are_refused(on_disk, tmp_path):
    def put(adata, name):
        adata.write_h5ad(tmp_path / name)
        return tmp_path / name if on_disk else adata

    one, other = (put(screen(log1p_of(counts(), total)), f"{total}.h5ad") for total in (1998, 8079))
    assert checked(one) == pytest.approx(1998, rel=1e-4)
    with pytest.raises(ValueError, match=r"normalised to 1,998 .* to 8,079"):
        checked(one, other)


def test_one_file_of_two_totals_is_refused():
    """As where two files that were normalised to their own medians are put together."""
    both = np.concatenate([log1p_of(counts(), 1998), log1p_of(counts(), 8079)])
    with pytest.raises(ValueError, match=r"normalised to different totals, 1,998, 8,079 counts"):
        checked(screen(both))


def test_logs_to_another_base_are_refused():
    with pytest.raises(ValueError, match=r"X of .* was logged to the base 2 .*uns\['log1p'\].*do this"):
        checked(screen((log1p_of(counts(), 1e4) / np.float32(np.log(2)))[:, :20], log1p={"base": 2}))
    with pytest.raises(ValueError, match=r"X of .* as logs to the base 2, its cells add up to 10,000 .*do this"):
        checked(screen(log1p_of(counts(), 1e4) / np.float32(np.log(2))))
    for base in ({}, {"base": None}, {"base": float(np.e)}):
        assert checked(screen(log1p_of(counts(), 1e4), log1p=base)) == pytest.approx(1e4, rel=1e-4)


def test_parts_of_the_genes_are_told_by_their_records():
    whole = {total: log1p_of(counts(), total) for total in (1998, 8079)}
    files = [screen(whole[total][:, :20], preprocess={**RECORD, "target_sum": float(total)}) for total in whole]
    with pytest.raises(ValueError, match=r"normalised to 1,998 .* to 8,079"):
        checked(*files)
    assert checked(screen(whole[1998][:, :20])) is None


def test_slots_of_another_scale_are_refused():
    values = counts()
    with pytest.raises(ValueError, match=r"X of .* is read as log1p, but holds counts: all .* whole numbers; do this"):
        checked(screen(values))
    with pytest.raises(ValueError, match=r"is read as log1p, but holds neither .* negative"):
        checked(screen(log1p_of(values, 1e4) - 1))
    with pytest.raises(ValueError, match=r"is read as counts, but holds log1p values"):
        checked(screen(log1p_of(values, 1e4)), scale="counts")
    assert checked(screen(values), scale="counts") is None
    late = np.concatenate([log1p_of(counts(4000), 1e4), counts(1000)])
    with pytest.raises(ValueError, match=r"neither counts nor log1p.* two scales in one matrix"):
        checked(screen(late))


def test_embeddings_have_no_scale_but_are_finite():
    adata = screen(counts())
    adata.obsm["X_state"] = np.random.default_rng(0).normal(size=(40, 3))
    assert checked(adata, slot="obsm/X_state", scale="embedding") is None
    adata.obsm["X_state"][3, 1] = np.nan
    with pytest.raises(ValueError, match=r"obsm/X_state of .* not finite"):
        checked(adata, slot="obsm/X_state", scale="embedding")


def test_only_controls_are_looked_at_where_only_they_are_read():
    values = log1p_of(counts(), 1e4)
    values[1::2] = counts()[1::2]
    assert checked(screen(values), only_controls=True) == pytest.approx(1e4, rel=1e-4)
    with pytest.raises(ValueError, match="two scales"):
        checked(screen(values))


def test_one_total_over_other_genes_is_another_scale():
    """The same variable genes, from all genes and from a panel: both normalised to 10,000, on two scales."""
    values = counts(genes=200)
    files = []
    for genes, digest in ((200, "all"), (40, "panel"), (190, "nearly all")):
        adata = screen(
            log1p_of(values[:, :genes], 1e4), preprocess={**RECORD, "target_sum": 1e4, "genes_sha256": digest}
        )
        adata.obsm["X_hvg"] = adata.X[:, :10].copy()
        adata.uns["X_hvg"] = {"var_names": adata.var_names[:10].to_numpy()}
        files.append(adata)
    whole, panel, nearly = files
    assert checked(whole, nearly, slot="obsm/X_hvg") == 1e4
    with pytest.raises(ValueError, match=r"one total, but counted other genes.* 40 genes .* hold \d+% .* and 100%"):
        checked(whole, panel, slot="obsm/X_hvg")
    matrix = open_cells(whole).matrix("X")
    check_counted_genes(matrix, matrix)
