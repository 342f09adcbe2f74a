import logging

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
from transformers.utils import logging as transformers_logging

from state_hf.tokenization.input_scale import check_input_type

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


@pytest.mark.parametrize("value", [-0.5, np.nan, np.inf])
@pytest.mark.parametrize("input_type", ["counts", "log1p", "auto"])
def test_scaled_or_broken_values_are_refused(value, input_type):
    with pytest.raises(ValueError, match="NaN, infinite or negative"):
        check_input_type(np.array([[1.0, value]]), input_type)


def test_unknown_types_are_refused():
    with pytest.raises(ValueError, match="input_type is 'raw'; it has to be"):
        check_input_type(COUNTS, "raw")


def test_real_data(shared_data):
    for path in sorted(shared_data.glob("*.h5ad")):
        adata = ad.read_h5ad(path, backed="r")
        scale = "log1p" if "norman" in path.name else "counts"
        assert check_input_type(adata.X[:200], "auto") == scale, path.name
        for layer in adata.layers:
            expected = "log1p" if layer == "lognorm" else "counts"
            assert check_input_type(adata.layers[layer][:200], "auto") == expected, (path.name, layer)
        adata.file.close()
