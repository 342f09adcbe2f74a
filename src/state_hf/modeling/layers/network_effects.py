"""Effects that trained networks predict, averaged over the contexts that they trained in."""

import torch
from torch import nn


class NetworkEffects(nn.Module):
    """Mean effects by perturbation, and how far the networks are apart. Nothing trains the tables.

    Args:
        num_perturbations: Perturbations.
        width: Features of a cell.
    """

    def __init__(self, num_perturbations: int, width: int) -> None:
        super().__init__()
        self.effects = nn.Parameter(torch.zeros(num_perturbations, width), requires_grad=False)
        # Standard deviation of the networks' effects; 0 of a single one.
        self.spread = nn.Parameter(torch.zeros(num_perturbations, width), requires_grad=False)
        # 1 for a perturbation that trained, 0 for others, whose effects a network has to be asked for.
        self.known = nn.Parameter(torch.zeros(num_perturbations), requires_grad=False)

    def add_perturbations(self, number: int) -> None:
        """Make room for further perturbations, which did not train."""
        for name, table in list(self.named_parameters()):
            setattr(self, name, nn.Parameter(torch.cat([table, table.new_zeros(number, *table.shape[1:])]), False))

    @torch.no_grad()
    def forward(self, perturbation_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Effect and variance of a perturbation, or None where not all of a combination trained.

        Args:
            perturbation_ids: (combined,). Effects and variances add up; -1 has none.

        Returns:
            (width,) each.
        """
        ids = perturbation_ids[perturbation_ids >= 0].to(self.known.device)
        if not bool((self.known[ids] > 0).all()):
            return None
        return self.effects[ids].sum(dim=0), self.spread[ids].square().sum(dim=0)


__all__ = ["NetworkEffects"]
