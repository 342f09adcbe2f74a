"""Energy distances of an expression table along genes and along cells."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from state_hf.modeling.losses import TabularLoss

REFERENCE = Path(__file__).parents[2] / "fixtures" / "losses" / "expected.safetensors"


def test_by_hand():
    # One view: norms of the rows' differences (3 and 4, mean 3.5), and of the last column's (0 and 4).
    predicted, target = torch.zeros(2, 2), torch.tensor([[3.0, 0.0], [0.0, 4.0]])
    assert TabularLoss(shared_genes=1)(predicted, target).item() == 3.5 + 4


@pytest.mark.parametrize("views", [1, 2])
def test_against_arc_state(views):
    reference = load_file(REFERENCE)
    table = reference["table"].requires_grad_()
    value = TabularLoss(shared_genes=4, views=views)(table, reference["table_target"])
    value.backward()
    # geomloss takes 1e-4 for the distance of a cell to itself, in both terms: less of it by 1e-4 / views each.
    expected = reference[f"tabular_{views}.value"].double()
    torch.testing.assert_close(value - 2e-4 / views, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(table.grad, reference[f"tabular_{views}.gradient"], rtol=1e-6, atol=1e-8)


def test_rows_that_are_no_whole_cells():
    with pytest.raises(ValueError, match="views=2"):
        TabularLoss(shared_genes=1, views=2)(torch.zeros(3, 4), torch.zeros(3, 4))
