"""Classifiers of cells: loading a family's, and fitting a linear head on a frozen encoder's cells."""

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from state_hf.configuration.model_folders import loading_from
from state_hf.data.whole_files import folder_written_whole
from state_hf.families import FAMILIES, auto_classes
from state_hf.inference.cell_encoder import CellEncoder
from state_hf.inference.loading import load_tokenizer, refuse_missing_weights
from state_hf.model_cards.card import write_model_card
from state_hf.tokenization.cell_tokenizer import CellTokenizer

_TASK = "AutoModelForSequenceClassification"
# Enough for thousands of correlated features; the solver stops earlier where it has converged.
_SOLVER_STEPS = 2000


def load_classifier(
    model: str | Path, *, dtype: str | None = None, device: torch.device | None = None
) -> tuple[PreTrainedModel, CellTokenizer]:
    """Load a classifier of cells and its tokenizer.

    Args:
        model: Folder or hub id.
        dtype: "float32", "bfloat16" or "float16". Default: the checkpoint's; on the CPU, float32.
        device: Where it goes. Default: the CPU.

    Raises:
        ValueError: It is no classifier, or is incomplete.
    """
    name = str(model)
    with loading_from(name):
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    if not any(architecture.endswith("ForSequenceClassification") for architecture in config.architectures or ()):
        raise ValueError(f"{name} is no classifier: give a reference to take labels from (and fit_head to train one).")
    on_cpu = device is None or device.type == "cpu"
    with loading_from(name):
        loaded, info = AutoModelForSequenceClassification.from_pretrained(
            name,
            config=config,
            dtype=dtype or ("float32" if on_cpu else "auto"),
            output_loading_info=True,
            trust_remote_code=False,
        )
    refuse_missing_weights(name, info["missing_keys"])
    return loaded.to(device or "cpu").eval(), load_tokenizer(name, loaded)


def check_linear_head(encoder: CellEncoder) -> None:
    """Refuse a family whose classifier is more than a linear layer on the cell that the encoder gives.

    Raises:
        ValueError: It is one.
    """
    if not hasattr(_classifier_class(encoder), "head_inputs"):
        raise ValueError(
            f"the classifier of a {type(encoder.model).__name__} is not linear in the cell's embedding, so a head "
            "cannot be fitted to a frozen encoder's cells: label by neighbours, without fit_head"
        )


def _classifier_class(encoder: CellEncoder) -> Any:
    model_type = encoder.model.config.model_type
    place = auto_classes(model_type).get(_TASK) if model_type in FAMILIES else None
    return None if place is None else getattr(importlib.import_module(place[0]), place[1])


def fit_linear_head(
    encoder: CellEncoder, cells: np.ndarray, labels: np.ndarray, *, unknown_threshold: float
) -> PreTrainedModel:
    """A classifier whose head is fitted to the embeddings of labelled cells, the encoder left as it is.

    The head is multinomial logistic regression (L-BFGS, L2 penalty of strength 1, as scikit-learn has it), every class
    weighing the same, whatever its size.

    Args:
        encoder: What the embeddings are from.
        cells: (cells, width), what cells are compared by.
        labels: (cells,) text; two labels at least.
        unknown_threshold: Kept in the configuration.

    Raises:
        ValueError: There is one label only.
    """
    names, numbers = np.unique(labels.astype(str), return_inverse=True)
    if len(names) < 2:
        raise ValueError(f"a classifier needs two labels at least, and all cells are {names[0]!r}")
    weights = len(numbers) / (len(names) * np.bincount(numbers))
    classifier = _classifier_class(encoder).from_encoder(
        encoder.model, names.tolist(), class_weights=weights.round(6).tolist(), unknown_threshold=unknown_threshold
    )
    with torch.inference_mode():
        features = classifier.head_inputs(torch.from_numpy(cells)).float().numpy()
    solver = LogisticRegression(class_weight="balanced", max_iter=_SOLVER_STEPS).fit(features, numbers)
    coefficients, offsets = solver.coef_, solver.intercept_
    if len(names) == 2:
        # Of two classes, scikit-learn gives the difference alone.
        coefficients, offsets = np.stack([-coefficients[0], coefficients[0]]) / 2, np.array([-1, 1]) * offsets / 2
    with torch.no_grad():
        classifier.classifier.weight.copy_(torch.from_numpy(coefficients))
        classifier.classifier.bias.copy_(torch.from_numpy(offsets))
    return classifier.eval()


def linear_logits(classifier: Any, cells: np.ndarray) -> np.ndarray:
    """(cells, classes) logits of a classifier from (cells, width) embeddings that are at hand."""
    with torch.inference_mode():
        return classifier.classifier(classifier.head_inputs(torch.from_numpy(cells))).float().numpy()


def predict_classes(logits: torch.Tensor, threshold: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The most probable class of each cell, or -1 for a cell that is unknown.

    Args:
        logits: (cells, classes).
        threshold: Smallest probability of a class to be taken, from 0 (never unknown) to 1.

    Returns:
        (cells,) class numbers, -1 where the probability is below the threshold, and (cells,) probabilities.
    """
    probability, number = logits.float().softmax(dim=-1).max(dim=-1)
    return torch.where(probability >= threshold, number, -1), probability


def save_classifier(classifier: PreTrainedModel, tokenizer: Any, folder: Path) -> None:
    """Save a classifier and its tokenizer into a folder that appears whole; one of that name is replaced."""
    with folder_written_whole(folder, overwrite=True) as unfinished:
        classifier.save_pretrained(unfinished)
        tokenizer.save_pretrained(unfinished)
        # The folder has its own name only later.
        write_model_card(unfinished, name=folder.resolve().name)


__all__ = [
    "check_linear_head",
    "fit_linear_head",
    "linear_logits",
    "load_classifier",
    "predict_classes",
    "save_classifier",
]
