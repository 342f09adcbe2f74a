"""What is chosen where nobody did."""

import pytest

from state_hf.configuration.state_transition import StateTransitionConfig
from state_hf.training.recipe import recipe_for


@pytest.mark.parametrize(("cells", "width", "steps"), [(1, 128, 3000), (200_000, 128, 3000), (200_001, 768, 40_000)])
def test_by_the_number_of_perturbed_cells(cells, width, steps):
    recipe = recipe_for(cells)
    assert (recipe.sizes["hidden_size"], recipe.steps) == (width, steps)
    StateTransitionConfig(**recipe.sizes).validate_architecture()


def test_it_is_stated():
    assert str(recipe_for(10)) == (
        "hidden size 128, num hidden layers 4, num attention heads 4, intermediate size 512, num encoder layers 2, "
        "3,000 steps with a cosine learning rate of 0.001"
    )
