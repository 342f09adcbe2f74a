"""Training step and prediction of State Transition against arc-state

    python benchmarks/state_transition_step.py [--quick] [--device cuda]

Sizes are those of arc-state's `state` preset (768 wide, 8 layers), in float32. A step is forward, loss, backward,
clipping and the optimiser.
"""

import contextlib
import io
from typing import Any

from turns import Contest, main

FEATURES, PERTURBATIONS, HIDDEN, LAYERS, HEADS = 2000, 1000, 768, 8, 12


def expression(cells: int, device: str):
    import torch

    return (torch.rand(cells, FEATURES).mul_(3) * (torch.rand(cells, FEATURES) < 0.3)).to(device)


def arc_state(what: str, sets: int, cells: int, device: str):
    import torch
    from state.tx.models.state_transition import StateTransitionPerturbationModel

    backbone = {
        "bidirectional_attention": True,
        "max_position_embeddings": cells,
        "hidden_size": HIDDEN,
        "intermediate_size": 4 * HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "head_dim": HIDDEN // HEADS,
        "use_cache": False,
    }
    with contextlib.redirect_stdout(io.StringIO()):
        model = StateTransitionPerturbationModel(
            input_dim=FEATURES,
            output_dim=FEATURES,
            hidden_dim=HIDDEN,
            pert_dim=PERTURBATIONS,
            gene_dim=FEATURES,
            embed_key="X_hvg",
            cell_set_len=cells,
            n_encoder_layers=1,
            n_decoder_layers=1,
            transformer_backbone_key="llama",
            transformer_backbone_kwargs=backbone,
        ).to(device)
    model.log = lambda *_, **__: None
    ids = torch.arange(sets, device=device).repeat_interleave(cells)
    batch = {
        "pert_emb": torch.eye(PERTURBATIONS, device=device)[ids],
        "ctrl_cell_emb": expression(sets * cells, device),
        "pert_cell_emb": expression(sets * cells, device),
        "pert_name": ["p"] * (sets * cells),
    }
    if what == "prediction":
        return prediction(model, lambda: model.predict_step(batch, 0), sets * cells)
    return training(model, model.configure_optimizers(), lambda: model.training_step(batch, 0))


def state_hf(what: str, sets: int, cells: int, device: str):
    import torch

    from state_hf import StateTransitionConfig, StateTransitionForPerturbation

    config = StateTransitionConfig(input_dim=FEATURES, perturbation_dim=PERTURBATIONS, cell_set_length=cells)
    model = StateTransitionForPerturbation(config).to(device)
    control, target = (expression(sets * cells, device).view(sets, cells, -1) for _ in range(2))
    batch = {"control": control, "perturbation_ids": torch.arange(sets, device=device)}
    if what == "prediction":
        return prediction(model, lambda: model(**batch), sets * cells)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    return training(model, optimizer, lambda: model(**batch, target=target).loss)


def training(model: Any, optimizer: Any, loss: Any):
    import torch

    model.train()

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10)
        optimizer.step()

    return step


def prediction(model: Any, predict: Any, cells: int):
    import torch

    model.eval()

    def call() -> int:
        with torch.inference_mode():
            predict()
        return cells

    return call


def claim(contest: Contest) -> None:
    for sets, cells in [(1, 128)] if contest.quick else [(4, 512), (1, 128)]:
        for what in ("training step", "prediction"):
            contest.compare(
                f"State Transition, {what}, {sets} x {cells} cells",
                (state_hf, arc_state),
                {"what": what, "sets": sets, "cells": cells, "device": contest.device},
                repeats=3 if contest.quick or sets > 1 else 7,
                items="cells" if what == "prediction" else None,
            )


if __name__ == "__main__":
    main(claim)
