"""What a predicted expression table is compared with the true one by, in pretraining."""

import torch
import torch.nn.functional as F

from state_hf.modeling.losses.energy_distance import EnergyDistanceLoss
from state_hf.modeling.losses.tabular import TabularLoss

NO_LABEL = -100.0


def expression_loss(
    name: str, predicted: torch.Tensor, labels: torch.Tensor, *, shared_genes: int = 0, views: int = 1
) -> torch.Tensor:
    """Loss of a predicted expression table, in float32 at least.

    Args:
        name: "mse", the mean squared error; "bce", the cross-entropy of the prediction, as a logit, of whether a gene
            is expressed; "energy", the energy distance along the genes of a cell; "tabular", that and the energy
            distance along the cells of a shared gene (see `TabularLoss`); "kl", the divergence of a cell's profile,
            each made a distribution over its genes by softmax, from the predicted one.
        predicted: (cells x views, genes).
        labels: (cells x views, genes), log1p expression. Where it is -100 there is none, which "mse" and "bce" leave
            out and the others refuse to know.
        shared_genes: How many of the last columns are the same genes in every cell; "tabular" needs some.
        views: How many consecutive rows are views of one cell.

    Returns:
        A scalar.

    Raises:
        ValueError: "tabular" without shared genes.
    """
    dtype = torch.promote_types(predicted.dtype, torch.float32)
    predicted, labels = predicted.to(dtype), labels.to(dtype)
    if name in ("mse", "bce"):
        known = labels != NO_LABEL
        predicted, labels = predicted[known], labels[known]
        if name == "mse":
            return F.mse_loss(predicted, labels)
        return F.binary_cross_entropy_with_logits(predicted, (labels > 0).to(dtype))
    if name == "tabular":
        if shared_genes == 0:
            raise ValueError("The tabular loss needs genes that all cells share: give shared_target_ids.")
        return TabularLoss(shared_genes, views)(predicted, labels)
    if name == "energy":
        width = labels.shape[-1]
        return EnergyDistanceLoss()(predicted.reshape(-1, views, width), labels.reshape(-1, views, width)).mean()
    return F.kl_div(predicted.log_softmax(-1), labels.log_softmax(-1), reduction="batchmean", log_target=True)


__all__ = ["NO_LABEL", "expression_loss"]
