from itertools import pairwise

import anndata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import sparse

from state_hf.evaluate_modules.cell_collector import CellCollector

GENES = ["A", "B", "C"]


def block(x, label="p", genes=GENES):
    index = [str(i) for i in range(x.shape[0])]
    obs = pd.DataFrame({"perturbation": label, "other": 1}, index=index)
    return AnnData(x, obs=obs, var=pd.DataFrame(index=genes))


def gathered(*blocks):
    collector = CellCollector(["perturbation"], "predictions")
    for part in blocks:
        collector.add(part)
    return anndata.read_h5ad(collector.finish())


@settings(max_examples=25)
@given(
    arrays.arrays(np.float32, (7, 3), elements=st.sampled_from([0, 0, 0, 1, 2, 65535, 65536, 0.5, -1])),
    st.lists(st.integers(0, 7), max_size=3),
    st.sampled_from([np.asarray, sparse.csr_matrix, sparse.csc_matrix]),
)
def test_blocks_give_back_the_whole(x, cuts, layout):
    edges = [0, *sorted(cuts), 7]
    whole = gathered(*[block(layout(x[a:b])) for a, b in pairwise(edges)])
    values = whole.X.toarray() if sparse.issparse(whole.X) else whole.X
    np.testing.assert_array_equal(values, x)


def test_types_are_those_of_the_first_block():
    counts = np.array([[0, 0, 3], [0, 0, 0]], dtype=np.float64)
    assert gathered(block(counts)).X.dtype == np.float64
    assert gathered(block(counts.astype(np.uint16)), block(counts)).X.dtype == np.uint16
    with pytest.raises(ValueError, match="has float64 values that the first block's type, uint16, does not hold"):
        gathered(block(counts.astype(np.uint16)), block(counts / 2))
    full = gathered(block(np.ones((2, 3), dtype=np.float32)), block(sparse.csr_matrix(counts)))
    assert isinstance(full.X, np.ndarray)
    np.testing.assert_array_equal(full.X, np.concatenate([np.ones((2, 3)), counts]))


def test_labels_and_names():
    whole = gathered(block(np.zeros((2, 3)), "a"), block(np.zeros((1, 3)), 7))
    assert list(whole.obs["perturbation"]) == ["a", "a", "7"]
    assert list(whole.obs.columns) == ["perturbation"]
    assert list(whole.var_names) == GENES


def test_the_file_goes_with_the_collector():
    collector = CellCollector(["perturbation"], "predictions")
    collector.add(block(np.ones((2, 3))))
    assert collector.n_cells == 2
    path = collector.finish()
    assert path.is_file()
    del collector
    assert not path.parent.exists()


def test_unfit_blocks():
    with pytest.raises(ValueError, match="no obs column 'perturbation'"):
        gathered(AnnData(np.ones((1, 1))))
    with pytest.raises(ValueError, match="1 gene of the first block missing from the new block: 'C'"):
        gathered(block(np.ones((2, 3))), block(np.ones((1, 2)), genes=["A", "B"]))
    with pytest.raises(ValueError, match="has no X"):
        gathered(AnnData(obs=pd.DataFrame({"perturbation": ["a"]}, index=["0"])))
