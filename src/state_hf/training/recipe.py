"""Sizes and steps that suit a screen, where nobody chose others."""

from dataclasses import dataclass

# Screens up to here were seen more than a hundred times in the steps of the large recipe, and learnt by heart.
_SMALL = 200_000


@dataclass(frozen=True)
class Recipe:
    """How a State Transition model is trained.

    Attributes:
        sizes: Fields of `StateTransitionConfig`.
        steps: Training steps of 8 sets of 64 cells.
        learning_rate: Of AdamW, at its highest.
        schedule: "cosine" for up in the first thirtieth of the steps and then down to 0; "constant".
    """

    sizes: dict[str, int]
    steps: int
    learning_rate: float
    schedule: str

    def __str__(self) -> str:
        sizes = "".join(f"{name.replace('_', ' ')} {value:,}, " for name, value in self.sizes.items())
        return f"{sizes}{self.steps:,} steps with a {self.schedule} learning rate of {self.learning_rate:g}"


def recipe_for(perturbed_cells: int) -> Recipe:
    """The recipe for a screen with so many perturbed cells.

    Up to 200,000 it is the small network of `docs/science.md`, which trains in minutes on a processor; above, the sizes
    of the original and its 40,000 steps.
    """
    if perturbed_cells <= _SMALL:
        sizes = (128, 4, 4, 512, 2)
        steps, rate, schedule = 3000, 1e-3, "cosine"
    else:
        sizes = (768, 8, 12, 3072, 1)
        steps, rate, schedule = 40_000, 3e-4, "constant"
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "num_encoder_layers")
    return Recipe(dict(zip(names, sizes, strict=True)), steps, rate, schedule)


__all__ = ["Recipe", "recipe_for"]
