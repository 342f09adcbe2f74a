import logging

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
from transformers.utils import logging as transformers_logging

from state_hf.tokenization.cell_matrix import layer_names
from state_hf.tokenization.input_scale import check_input_type, check_scale, look_at_values

COUNTS = np.array([[0, 3, 1, 40], [2, 0, 0, 1]])
LOG1P = np.log1p(COUNTS / COUNTS.sum(axis=1, keepdims=True) * 1e4)
CORRECTED = COUNTS * 0.97
FORMS = [np.asarray, sp.csr_array, sp.csc_matrix, lambda x: iter([x[:1], x[1:]])]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("values", "scale"), [(COUNTS, "counts"), (COUNTS * 1.0, "counts"), (CORRECTED, "counts"), (LOG1P, "log1p")]
)
def test_the_scale_is_seen_and_contradictions_refused(form, values, scale):
    other = "log1p" if scale == "counts" else "counts"
    assert check_input_type(form(values), "auto") == scale
    assert check_input_type(form(values), scale) == scale
    with pytest.raises(ValueError, match=f"said to be {other}, but they look like {scale}.*input_type='{scale}'"):
        check_input_type(form(values), other)


def test_values_below_35_are_counts_if_they_mean_too_many_molecules():
    assert check_input_type(np.array([[0.5, 16.0]]), "auto") == "counts"
    assert check_input_type(np.array([[0.5, 14.0]]), "auto") == "log1p"


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_every_type_of_float(dtype):
    assert check_input_type(LOG1P.astype(dtype), "auto") == "log1p"


@pytest.mark.parametrize("input_type", ["counts", "log1p"])
def test_nothing_contradicts_no_values(input_type):
    assert check_input_type(np.zeros((2, 3)), input_type) == input_type
    assert check_input_type(sp.csr_array((0, 3)), input_type) == input_type


def test_the_choice_is_told(caplog):
    transformers_logging.enable_propagation()
    try:
        with caplog.at_level(logging.WARNING):
            check_input_type(LOG1P, "auto")
    finally:
        transformers_logging.disable_propagation()
    assert "taken for log1p (not all values are whole numbers, and the largest is 9.1" in caplog.text


@pytest.mark.parametrize(("value", "seen"), [(-0.5, "negative.*-0.5"), (np.nan, "NaN or inf"), (np.inf, "NaN or inf")])
@pytest.mark.parametrize("input_type", ["counts", "log1p", "auto"])
def test_scaled_or_broken_values_are_refused(value, seen, input_type):
    with pytest.raises(ValueError, match=f"neither counts nor log1p: some are {seen}"):
        check_input_type(np.array([[1.0, value]]), input_type)


def cells(target: float | None, dtype="float32", genes=300, num_cells=60) -> np.ndarray:
    """Counts of cells of different depths, or log1p of them normalised to a target."""
    rng = np.random.default_rng(1)
    depth = rng.lognormal(7.5, 0.4, (num_cells, 1))
    counts = rng.poisson(rng.dirichlet(np.ones(genes)) * depth).astype(np.float64)
    if target is None:
        return counts
    return np.log1p(counts / counts.sum(axis=1, keepdims=True) * target).astype(dtype)


@pytest.mark.parametrize("target", [1998.0, 8079.0, 1e4, 1e6])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize(
    "form", [np.asarray, lambda values: sp.csr_array(values.astype("float32")), lambda x: iter([x[:20], x[20:]])]
)
def test_normalised_cells_show_what_they_were_normalised_to(target, dtype, form):
    seen = look_at_values(form(cells(target, dtype)))
    assert seen.scale == "log1p"
    assert seen.total == pytest.approx(target, rel=2e-3)


def test_what_shows_no_total():
    assert look_at_values(cells(None)).total is None
    assert look_at_values(cells(1e4)[:, :100]).total is None  # a part of the genes
    assert look_at_values(cells(1e4)[:3]).total is None  # three cells prove nothing
    several = look_at_values(np.concatenate([cells(1e4), cells(2e3), cells(8079, num_cells=5)]))
    assert several.total is None
    assert several.totals == pytest.approx([2e3, 8079, 1e4], rel=2e-3)
    # As of logs that were not normalised, however many cells.
    assert look_at_values(np.log1p(cells(None, num_cells=4000))).totals == []
    empty = np.concatenate([cells(1e4), np.zeros((30, 300))])
    assert look_at_values(empty).total == pytest.approx(1e4)


def test_counts_below_logs_in_one_matrix_are_of_no_scale():
    values = np.minimum(cells(None), 9)
    mixed = np.concatenate([values, cells(1e4)])
    for rows in (mixed, mixed[::-1]):
        seen = look_at_values(rows)
        assert seen.scale is None
        assert "60 of the 120 cells looked at hold fractions, and the others whole numbers only" in seen.reason
    # A cell or two may hold whole numbers by chance.
    assert look_at_values(np.concatenate([values[:2], cells(1e4)])).scale == "log1p"


@pytest.mark.parametrize("base", [2, 10])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("target", [1998.0, 1e6])
def test_logs_to_another_base_are_of_no_scale(base, dtype, target):
    natural = cells(target, num_cells=300)
    others = (natural.astype(np.float64) / np.log(base)).astype(dtype)
    for blocks in (others, iter([others[:1], others[1:]])):
        seen = look_at_values(blocks)
        assert seen.scale is None
        assert f"as logs to the base {base}, its cells add up to" in seen.reason
    # The way out that the reason names.
    assert look_at_values(others.astype(np.float64) * np.log(base)).total == pytest.approx(target, rel=2e-3)
    # Of a part of the genes nothing is shown.
    assert look_at_values(others[:, :100]).scale is not None


def test_a_slot_of_another_scale_is_refused_with_what_it_holds():
    check_scale(look_at_values(cells(1e4)), "log1p", "X of a.h5ad", "Do this")
    check_scale(look_at_values(np.zeros((3, 3))), "log1p", "X of a.h5ad", "Do this")
    for values, wanted, held in (
        (cells(None), "log1p", r"counts: all values are whole numbers"),
        (cells(1e4), "counts", r"log1p values: not all values are whole numbers, and the largest is"),
        (cells(1e4) - 1, "log1p", r"neither counts nor log1p values: some are negative, the least .* -1"),
    ):
        with pytest.raises(ValueError, match=rf"X of a.h5ad is read as {wanted}, but holds {held}.*; Do this$"):
            check_scale(look_at_values(values), wanted, "X of a.h5ad", "Do this")


def test_unknown_types_are_refused():
    with pytest.raises(ValueError, match="input_type is 'raw'; it has to be"):
        check_input_type(COUNTS, "raw")


def test_real_data(shared_data):
    for path in sorted(shared_data.glob("*.h5ad")):
        adata = ad.read_h5ad(path, backed="r")
        scale = "log1p" if "norman" in path.name else "counts"
        assert check_input_type(adata.X[:200], "auto") == scale, path.name
        for layer in layer_names(adata):
            expected = "log1p" if layer == "lognorm" else "counts"
            assert check_input_type(adata.layers[layer][:200], "auto") == expected, (path.name, layer)
        adata.file.close()


def test_values_that_lie_there_in_parts():
    parts = sp.csr_matrix((np.array([1.0, 2.0, 4.0, 1.0]), np.array([2, 0, 2, 1]), np.array([0, 3, 4])), shape=(2, 3))
    seen = look_at_values(parts)
    assert seen.scale == "counts"
    assert parts.nnz == 4
