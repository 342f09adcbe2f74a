"""New datasets for a model that tells datasets apart."""

from collections.abc import Sequence

import torch
from torch import nn

from state_hf.modeling.state_embedding_pretraining import StateEmbeddingForMaskedExpression


def extend_datasets(model: StateEmbeddingForMaskedExpression, names: Sequence[str]) -> list[str]:
    """Give a model classes for datasets that it does not know by name; those that it has stay as they are.

    A new class starts as the mean of the old ones, so that it is neither likely nor unlikely at first. The dataset
    token itself is the same for all datasets, and goes on learning.

    Args:
        model: The model, changed in place.
        names: Names of datasets.

    Returns:
        The names that were new.

    Raises:
        ValueError: The model has no dataset token.
    """
    config, classifier = model.config, model.dataset_classifier
    if classifier is None:
        raise ValueError("The model has no dataset token (use_dataset_token=False), so it has no datasets to extend.")
    new = [name for name in dict.fromkeys(names) if name not in config.dataset_classes]
    if not new:
        return []
    old = classifier.projection
    grown = nn.Linear(old.in_features, old.out_features + len(new), device=old.weight.device, dtype=old.weight.dtype)
    with torch.no_grad():
        grown.weight.copy_(torch.cat([old.weight, old.weight.mean(dim=0).expand(len(new), -1)]))
        grown.bias.copy_(torch.cat([old.bias, old.bias.mean().expand(len(new))]))
    classifier.projection = grown
    config.dataset_classes = config.dataset_classes | {
        name: old.out_features + number for number, name in enumerate(new)
    }
    config.num_datasets = grown.out_features
    return new


__all__ = ["extend_datasets"]
