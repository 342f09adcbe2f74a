"""Batches cover every cell once, shrink when memory ends, and do not change the result."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from state_hf import StateEmbeddingModel, resolve_genes
from state_hf.data.cells.open_cells import open_cells
from state_hf.inference.cell_encoder import BatchLimit, CellEncoder
from tests.pipelines.conftest import make_cells


@given(
    lengths=st.lists(st.integers(1, 100), min_size=1, max_size=80),
    cells=st.integers(1, 50),
    tokens=st.one_of(st.integers(1, 2000), st.just(float("inf"))),
)
def test_batches_cover_the_cells_within_the_limits(lengths, cells, tokens):
    lengths = np.array(lengths)
    batches = list(BatchLimit(cells, tokens).batches(lengths))
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) <= cells
        assert len(batch) == 1 or len(batch) * lengths[batch].max() <= tokens


def test_batches_are_even_and_longest_first():
    sizes = [len(batch) for batch in BatchLimit(4, float("inf")).batches(np.full(9, 10))]
    assert sizes == [3, 3, 3]
    lengths = np.array([2, 9, 5, 9])
    assert [lengths[batch].tolist() for batch in BatchLimit(2, float("inf")).batches(lengths)] == [[9, 9], [5, 2]]


@pytest.mark.parametrize("batch_size", [0, -1, True, 2.5, "all"])
def test_batch_size_is_checked(tiny_model, batch_size):
    with pytest.raises(ValueError, match="batch_size must be 'auto' or a whole number"):
        BatchLimit.of(batch_size, StateEmbeddingModel.from_pretrained(tiny_model))


def embed_all(model, tokenizer, cells, **options) -> np.ndarray:
    encoder = CellEncoder(model, tokenizer, **options)
    genes = resolve_genes(cells.var, tokenizer)
    blocks = dict(encoder.embed(cells, genes, input_type="counts", ranges=[(0, 20), (20, 30)]))
    return np.concatenate([blocks[0], blocks[20]])


class SmallMemory:
    """A model that runs out of memory above a number of cells, as CUDA would say it."""

    def __init__(self, model: StateEmbeddingModel, cells: int) -> None:
        self.model, self.cells, self.tried = model, cells, []

    def __getattr__(self, name):
        return getattr(self.model, name)

    def get_cell_features(self, **inputs):
        self.tried.append(len(inputs["input_ids"]))
        if self.tried[-1] > self.cells:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return self.model.get_cell_features(**inputs)


@pytest.mark.parametrize(("batch_size", "fill"), [("auto", "seeded"), (16, "none")])
def test_batch_that_does_not_fit_is_halved_and_said_so(tiny_model, caplog, batch_size, fill):
    model, tokenizer = StateEmbeddingModel.from_pretrained(tiny_model), AutoTokenizer.from_pretrained(tiny_model)
    with open_cells(make_cells(30)).expression() as cells:
        expected = embed_all(model, tokenizer, cells, fill=fill)
        small = SmallMemory(model, cells=6)
        result = embed_all(small, tokenizer, cells, batch_size=batch_size, fill=fill)
    np.testing.assert_allclose(result, expected, atol=1e-5)
    assert "do not fit into the memory of cpu: going on with at most" in caplog.text
    # The lower limit stays: the second block starts with it.
    assert max(small.tried[-2:]) <= 6


def test_single_cell_that_does_not_fit_is_an_error(tiny_model):
    model, tokenizer = StateEmbeddingModel.from_pretrained(tiny_model), AutoTokenizer.from_pretrained(tiny_model)
    with open_cells(make_cells(30)).expression() as cells, pytest.raises(torch.OutOfMemoryError):
        embed_all(SmallMemory(model, cells=0), tokenizer, cells)


def test_output_that_is_not_finite_names_the_cells(tiny_model):
    model, tokenizer = StateEmbeddingModel.from_pretrained(tiny_model), AutoTokenizer.from_pretrained(tiny_model)
    with torch.no_grad():
        model.dataset_embedder.bias[0] = torch.nan
    with (
        open_cells(make_cells(30)).expression() as cells,
        pytest.raises(ValueError, match=r"for 20 of the cells 0 to 19 .*'cell0'"),
    ):
        embed_all(model, tokenizer, cells)


def test_broken_values_name_the_data_and_the_cells(tiny_model):
    model, tokenizer = StateEmbeddingModel.from_pretrained(tiny_model), AutoTokenizer.from_pretrained(tiny_model)
    adata = make_cells(30)
    adata.X.data[-1] = np.nan
    with (
        open_cells(adata).expression() as cells,
        pytest.raises(ValueError, match=r"Cells 20 to 29 of the AnnData object: .* NaN"),
    ):
        embed_all(model, tokenizer, cells)
