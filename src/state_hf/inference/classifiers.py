"""Classifiers of cells: a family's loaded or made anew, and its last layer fitted to a frozen encoder's cells."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel
from transformers.utils import logging

from state_hf.configuration.model_folders import loading_from, refuse_missing_weights
from state_hf.data.whole_files import folder_written_whole
from state_hf.inference.loading import load_tokenizer, without_load_report
from state_hf.model_cards.card import write_model_card
from state_hf.tokenization.cell_tokenizer import CellTokenizer

logger = logging.get_logger(__name__)

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


def new_classifier(
    model: str | Path,
    names: Sequence[str],
    *,
    seed: int,
    auto_class: Any = AutoModelForSequenceClassification,
    dtype: str | None = None,
    device: torch.device | None = None,
    **fields: Any,
) -> Any:
    """The classifier of a model's family, with a head for these labels; a head that the model has is replaced.

    Args:
        model: Folder or hub id of a model of any family with a sequence classifier.
        names: The classes in order; none for a regression of one number.
        seed: Of the numbers that new weights start from. The caller's generator is left as it is.
        auto_class: Which kind of classifier: `AutoModelForSequenceClassification`, or another Auto class of models with
            classes.
        dtype: "float32", "bfloat16" or "float16". Default: "float32".
        device: Where it goes. Default: the CPU.
        **fields: Of the configuration.

    Raises:
        ValueError: The model's family has no such classifier, or weights of the encoder are missing.
    """
    heads: dict[str, Any] = {"num_labels": 1, "problem_type": "regression"}
    if names:
        heads = {
            "id2label": dict(enumerate(names)),
            "label2id": {name: number for number, name in enumerate(names)},
            "problem_type": "single_label_classification",
        }
    with loading_from(model):
        config = AutoConfig.from_pretrained(str(model), trust_remote_code=False, **heads)
    for name, value in fields.items():
        setattr(config, name, value)
    with torch.random.fork_rng(devices=[]), loading_from(model), without_load_report():
        torch.manual_seed(seed)
        loaded, info = auto_class.from_pretrained(
            str(model),
            config=config,
            dtype=dtype or "float32",
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            trust_remote_code=False,
        )
    if getattr(loaded.config, "pad_token_id", 0) is None:
        # The tokenizer knows what the configuration of many language models does not say.
        load_tokenizer(str(model), loaded)
    prefix = f"{loaded.base_model_prefix}."
    # A stock model's pooler is part of its head.
    encoder = [key for key in info["missing_keys"] if key.startswith(prefix) and ".pooler." not in key]
    refuse_missing_weights(model, encoder)
    new = sorted({*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])})
    trained = [name for name, _ in loaded.named_parameters() if not name.startswith(prefix) and name not in new]
    if trained:
        # A head of as many classes, which are others, or which learnt from what is held out now.
        _start_anew(loaded, trained, auto_class, seed)
        new = sorted({*new, *trained})
    if new:
        logger.info(f"New weights, which start from random numbers: {', '.join(new)}")
    return loaded.to(device or "cpu").eval()


def _start_anew(model: PreTrainedModel, names: Sequence[str], auto_class: Any, seed: int) -> None:
    """Give weights the random numbers that they have in a new model."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = auto_class.from_config(model.config).state_dict()
    with torch.no_grad():
        for name in names:
            model.get_parameter(name).copy_(fresh[name])


def last_layer(classifier: PreTrainedModel) -> nn.Linear:
    """The linear layer that gives a classifier's logits.

    Raises:
        ValueError: It has none of its own.
    """
    number = classifier.config.num_labels
    found = [
        module
        for name, module in classifier.named_modules()
        if isinstance(module, nn.Linear)
        and module.out_features == number
        and not name.startswith(f"{classifier.base_model_prefix}.")
    ]
    if not found:
        raise ValueError(
            f"a {type(classifier).__name__} has no linear layer for its {number} classes that could be fitted to a "
            "frozen encoder's cells: label by neighbours, or fine-tune it"
        )
    return found[-1]


def head_inputs(classifier: PreTrainedModel, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """(cells, width) what the last layer of a classifier reads of a batch of cells."""
    read: list[torch.Tensor] = []
    hook = last_layer(classifier).register_forward_pre_hook(lambda layer, given: read.append(given[0]))
    try:
        classifier(**inputs)
    finally:
        hook.remove()
    found = read[-1]
    if found.ndim == 2:
        return found
    # A classifier on a language model scores every token, and takes the last.
    mask = inputs.get("attention_mask")
    length = torch.full((len(found),), found.shape[1]) if mask is None else mask.sum(dim=1)
    return found[torch.arange(len(found)), length.to(found.device) - 1]


def fit_last_layer(classifier: Any, features: np.ndarray, labels: np.ndarray) -> None:
    """Fit the last layer of a classifier to labelled cells, the rest left as it is.

    The layer is multinomial logistic regression of standardised features (L-BFGS, L2 penalty of strength 1, as
    scikit-learn has it), every class weighing the same, whatever its size. The scales go into the layer's weights. For
    a layer without offsets, features are not centred.

    Args:
        classifier: Of `new_classifier`; changed in place, in float32 afterwards.
        features: (cells, width), its `head_inputs`.
        labels: (cells,) names of `config.label2id`.
    """
    numbers = np.array([classifier.config.label2id[label] for label in labels])
    layer = last_layer(classifier)
    means, scales = features.mean(axis=0, dtype=np.float64), features.std(axis=0, dtype=np.float64)
    if layer.bias is None:
        means[:] = 0
    # A feature that does not vary says nothing.
    scales[scales == 0] = 1.0
    options: dict[str, Any] = {"class_weight": "balanced", "max_iter": _SOLVER_STEPS}
    solver = LogisticRegression(fit_intercept=layer.bias is not None, **options)
    solver.fit((features - means) / scales, numbers)
    coefficients, offsets = solver.coef_, solver.intercept_
    if len(coefficients) == 1:
        # Of two classes, scikit-learn gives the difference alone.
        coefficients, offsets = np.stack([-coefficients[0], coefficients[0]]) / 2, np.array([-1, 1]) * offsets / 2
    coefficients = coefficients / scales
    classifier.float()
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(coefficients))
        if layer.bias is not None:
            layer.bias.copy_(torch.from_numpy(offsets - coefficients @ means))


def last_logits(classifier: Any, features: np.ndarray) -> np.ndarray:
    """(cells, classes) logits of a classifier from (cells, width) `head_inputs` that are at hand."""
    layer = last_layer(classifier)
    with torch.inference_mode():
        return layer(torch.from_numpy(features).to(layer.weight)).float().cpu().numpy()


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
    "fit_last_layer",
    "head_inputs",
    "last_layer",
    "last_logits",
    "load_classifier",
    "new_classifier",
    "predict_classes",
    "save_classifier",
]
