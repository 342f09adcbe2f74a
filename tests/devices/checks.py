"""What `test_devices` runs in a process of its own. Importing this registers the pretended device."""

import copy
from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pytest
import torch
from torch.testing import assert_close

from state_hf import (
    PerturbationBaseline,
    PerturbationBaselineConfig,
    PerturbationDataset,
    StateEmbeddingModel,
    StateEmbeddingTokenizer,
    embed,
    evaluate_predictions,
    open_screens,
    predict,
)
from state_hf.training.effect_scale import attach_mixed_effects, fit_effect_scale
from state_hf.training.perturbation_offsets import fit_perturbation_offsets
from state_hf.training.predicted_profiles import average_effects
from state_hf.training.screen_means import screen_means
from tests.devices.pretended_device import NAME, PretendedDevice
from tests.modeling.conftest import GENES, MODELS, TOKENS, state_embedding_config
from tests.modeling.test_behaviours import scalar_of, tensors
from tests.modeling.test_state_transition import CELLS, FEATURES, KINDS, make_inputs, make_model
from tests.screen_models import normalised_screen, vocabulary_of_sets
from tests.tiny_models import state_transition_model


def models(folder: Path) -> None:
    """Forward and backward passes of every model and loss."""
    a_tensor_left_behind_is_noticed()
    encoders()
    state_transition()
    baselines()


def a_tensor_left_behind_is_noticed() -> None:
    """The pretended device refuses what a GPU refuses."""
    with PretendedDevice():
        layer = torch.nn.Linear(4, 5).to(NAME)
        assert str(layer(torch.ones(3, 4, device=NAME)).device) == f"{NAME}:0"
        with pytest.raises(RuntimeError, match="tensors of two devices"):
            layer(torch.ones(3, 4))


def _step(model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The loss (or sum of outputs) and the gradients, on the CPU, of a step that has to stay on the model's device."""
    device = next(model.parameters()).device
    torch.manual_seed(0)
    output = model(**{name: value.to(device) for name, value in inputs.items()})
    assert {value.device for value in tensors(output).values()} == {device}
    loss = scalar_of(output)
    if loss.requires_grad:
        loss.backward()
    gradients = {name: weight.grad.cpu() for name, weight in model.named_parameters() if weight.grad is not None}
    return loss.detach().cpu(), gradients


def _is_the_same(model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> None:
    near = _step(copy.deepcopy(model), inputs)
    with PretendedDevice():
        moved = copy.deepcopy(model).to(NAME)
        # A pretended tensor takes a parameter's place, where a GPU's becomes its content: tied weights part.
        moved.tie_weights()
        far = _step(moved, inputs)
    # Attention takes another kernel for another device.
    assert_close(far, near, rtol=1e-3, atol=1e-2)


def encoders() -> None:
    """Every class that reads cells."""
    for model_class, config, inputs in MODELS.values():
        torch.manual_seed(0)
        _is_the_same(model_class(config()), inputs())


def state_transition() -> None:
    """Every kind of State Transition model, with padding and sets of different sizes, and every loss."""
    for kind in KINDS:
        inputs = make_inputs(model := make_model(kind))
        _is_the_same(model, inputs)
    mask = torch.arange(CELLS) < torch.tensor([[CELLS], [CELLS - 1], [2]])
    for loss in ("energy", "sinkhorn", "energy_sinkhorn", "gaussian_mmd", "multi_kernel_mmd", "mse"):
        inputs = make_inputs(model := make_model(loss=loss, use_perturbation_offsets=True))
        _is_the_same(model, {**inputs, "cell_mask": mask, "target_mask": mask})
    rotary = make_model(is_causal=True, position_embedding_type="rotary")
    _is_the_same(rotary, make_inputs(rotary))


def baselines() -> None:
    """The baselines, but for the one that makes lists of tensors, which a pretended one cannot become."""
    for method in ("control_copy", "perturbation_mean", "perturbation_profile", "perturbation_ridge"):
        config = PerturbationBaselineConfig(method=method, input_dim=FEATURES, num_perturbations=4, perturbation_dim=2)
        _is_the_same(PerturbationBaseline(config), make_inputs(make_model()))


def _job_is_the_same(job: Callable[[str], np.ndarray]) -> None:
    near = job("cpu")
    with PretendedDevice():
        far = job(NAME)
    np.testing.assert_allclose(far, near, rtol=1e-3, atol=1e-4)


def jobs(folder: Path) -> None:
    """Whole jobs."""
    embedding(folder)
    predictions_and_scores(folder)
    fits(folder)


def embedding(folder: Path) -> None:
    """Embedding of a file."""
    names = [f"GENE{number}" for number in range(GENES)]
    counts = np.random.default_rng(0).poisson(1.0, (20, GENES)).astype(np.float32)
    cells = anndata.AnnData(counts)
    cells.var_names = names
    cells.write_h5ad(folder / "cells.h5ad")
    StateEmbeddingModel(state_embedding_config()).save_pretrained(folder / "embedding")
    StateEmbeddingTokenizer(names, model_max_length=TOKENS).save_pretrained(folder / "embedding")

    def embedded(device: str) -> np.ndarray:
        output = folder / f"{device}.npy"
        return np.load(embed(folder / "cells.h5ad", folder / "embedding", output=output, device=device))

    _job_is_the_same(embedded)


def predictions_and_scores(folder: Path) -> None:
    """Prediction and evaluation of a screen."""
    screen = normalised_screen()
    screen.write_h5ad(folder / "screen.h5ad")
    sets = PerturbationDataset(open_screens(folder / "screen.h5ad"))
    state_transition_model(vocabulary_of_sets(sets)).save_pretrained(folder / "transition")
    for emit in ("model", "tilted"):
        _job_is_the_same(
            lambda device, emit=emit: predict(
                folder / "screen.h5ad", folder / "transition", "all", cells=3, device=device, emit=emit
            ).X.toarray()
        )
    odd = np.arange(screen.n_obs) % 2 == 1
    for profile in ("vcc2025", "full"):
        _job_is_the_same(
            lambda device, profile=profile: evaluate_predictions(
                screen[odd].copy(), screen[~odd].copy(), profile, device=device, on_error="nan"
            ).aggregate["mean"].to_numpy()
        )  # fmt: skip


def fits(folder: Path) -> None:
    """What is fitted to a trained model: offsets, a mixed model and the effect scale."""
    normalised_screen().write_h5ad(folder / "fitted.h5ad")
    sets = PerturbationDataset(open_screens(folder / "fitted.h5ad"), set_size=8)
    model = state_transition_model(vocabulary_of_sets(sets), use_perturbation_offsets=True).eval()

    def fitted(device: str) -> np.ndarray:
        copied = copy.deepcopy(model).to(device)
        fit_perturbation_offsets(copied, sets)
        means = screen_means(sets.screens, None, slot="X")
        attach_mixed_effects(copied, means, [average_effects(copied, sets)])
        slope = fit_effect_scale(copied, sets, means).effect.value
        return np.append(copied.state_transition.perturbation_offsets.cpu().numpy().ravel(), slope)

    _job_is_the_same(fitted)
