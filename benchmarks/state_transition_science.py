"""Trains ST on the fixed splits of real screens, and writes the cells that it predicts for the judge.

WORK=folder PUBLIC_DATA=../shared/data python ../shared/science/prepare.py     # the splits, once
python benchmarks/state_transition_science.py A B1 B2 C --work folder --seeds 42 43 44
(cd ../shared/science && WORK=folder python judge.py A arc_state_s42 arc_state_stilted42 arc_state_sfull42 ...)

The judge reads `pred_SPLIT_st_sLABEL[_disjoint].npz`: `cells` (names), `X` (their predictions) and `C` (the model's own
simulated controls; predictor `arc_state_simctrl_sLABEL`). The labels are

- SEED: the reference's budget and settings (hidden 128, 4 layers, 3,000 steps of 8 sets of 64, a constant learning rate
  of 3e-4), and the model's own cells;
- tiltedSEED: the same model, its predictions written with `emit="tilted"`;
- meanSEED, treatedSEED, bilinearSEED, kernelSEED: the baselines "perturbation_profile", "treated_mean", "bilinear" and
  "kernel_ridge", written with `emit="tilted"`;
- fullSEED: the same budget with a learning rate that falls from 1e-3 to 0, and perturbation offsets beyond two standard
  errors; tilted cells;
- allSEED: the same model with all residuals as offsets;
- recipeSEED: what `state-hf train` makes and `state-hf predict` writes: the mixed model, and as much of a network as a
  training context that it did not see shows;
- ensemble: the same with the networks of all seeds, whose effects are averaged.

The learning rate and the offsets were chosen on split A's training contexts, from rep_1 to rep_2.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import torch
from transformers import set_seed

from state_hf import (
    PerturbationDataset,
    PerturbationSplit,
    PerturbationVocabulary,
    StateTransitionConfig,
    StateTransitionForPerturbation,
    open_screens,
    predict,
)
from state_hf.configuration.perturbation_baseline import BaselineMethod
from state_hf.data.screens.split_definition import SplitDefinition
from state_hf.training.baseline_fitting import fit_baselines
from state_hf.training.effect_scale import attach_mixed_effects, fit_effect_scale, refit_mixed_effects
from state_hf.training.perturbation_offsets import fit_perturbation_offsets
from state_hf.training.predicted_profiles import average_effects
from state_hf.training.screen_means import screen_means
from state_hf.training.state_transition_arguments import StateTransitionTrainingArguments
from state_hf.training.state_transition_trainer import StateTransitionTrainer

BASELINES: dict[str, BaselineMethod] = {
    "mean": "perturbation_profile",
    "treated": "treated_mean",
    "bilinear": "bilinear",
    "kernel": "kernel_ridge",
}
FALLING_RATE = {"learning_rate": 1e-3, "lr_scheduler_type": "cosine", "warmup_steps": 100}


def applied_split(name: str, info: dict, folder: Path, *, validated: bool = False) -> PerturbationSplit:
    """Training sees the training cells, and all controls; `validated` holds out perturbations of one more context."""
    screens = open_screens({"screen": folder / f"{name}.h5ad"}, control=info["control"], cell_type_key="context")
    held_out = {("screen", info["test_context"]): {"test": info["held_out_all"]}}
    if validated:
        context = max(set(screens.cell_types) - {info["test_context"]})
        held_out["screen", context] = {"val": validation_perturbations(name, info, folder, context)}
    return PerturbationSplit(screens, SplitDefinition(training=("screen",), fewshot=held_out))


def validation_perturbations(name: str, info: dict, folder: Path, context: str) -> list[str]:
    """Those of a training context that another one trains, and that the test context does not, if there are such."""
    obs = anndata.read_h5ad(folder / f"{name}.h5ad", backed="r").obs.astype(str)
    trained = obs[obs["role"] == "train"]
    elsewhere = set(trained.loc[trained["context"] != context, "perturbation"])
    found = elsewhere & set(trained.loc[trained["context"] == context, "perturbation"])
    return sorted(found - set(info["few_shot_train"]) or found)


def vocabulary(split: PerturbationSplit) -> PerturbationVocabulary:
    """The names of a split."""
    screens = split.screens
    genes = list(anndata.read_h5ad(screens.screens[0].source, backed="r").var_names)
    return PerturbationVocabulary(screens.perturbations, screens.control, screens.batches, screens.cell_types, genes)


def baseline(name: str, info: dict, folder: Path, method: BaselineMethod) -> Path:
    """A baseline, as a model."""
    split, saved = applied_split(name, info, folder), folder / f"{method}_{name}"
    means = screen_means(split.screens, split, slot="obsm/X_hvg")
    fitted = fit_baselines(means, vocabulary(split), feature_key="X_hvg", cell_set_length=64, methods=[method])
    fitted[method].save_pretrained(saved)
    return saved


def train(name: str, info: dict, folder: Path, seed: int, steps: int, *, kind: str) -> Path:
    """Train on the training cells of a split, and all controls. Returns the model's folder; see above for `kind`."""
    saved = folder / f"st_{name}_{kind}_s{seed}"
    if (saved / "config.json").exists():
        return saved
    started = time.time()
    split = applied_split(name, info, folder, validated=kind == "validated")
    sets = PerturbationDataset(split.screens, split=split, part="train", features="obsm/X_hvg", set_size=64, seed=seed)
    names = vocabulary(split)
    set_seed(seed)
    config = StateTransitionConfig(
        input_dim=len(names.genes),
        perturbation_dim=len(names.perturbations),
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=512,
        num_encoder_layers=2,
        cell_set_length=64,
        target_sum=1e4,
        use_perturbation_offsets=kind == "full",
    )
    model = StateTransitionForPerturbation(config)
    model.vocabulary = names
    arguments = StateTransitionTrainingArguments(
        output_dir=str(folder / f"checkpoints_{saved.name}"),
        max_steps=steps,
        logging_steps=250,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=seed,
        **({} if kind == "plain" else FALLING_RATE),
    )
    trainer = StateTransitionTrainer(model, arguments, train_dataset=sets)
    trainer.train()
    if kind == "full":
        fit_perturbation_offsets(model, sets)
    model.save_pretrained(saved)
    print(f"{name} seed {seed}: {steps} steps of 8 sets of 64 in {time.time() - started:.0f} s", flush=True)
    return saved


def all_offsets(name: str, info: dict, folder: Path, full: Path, seed: int) -> Path:
    """The same model with all residuals as offsets."""
    split, saved = applied_split(name, info, folder), folder / f"st_{name}_all_s{seed}"
    sets = PerturbationDataset(split.screens, split=split, part="train", features="obsm/X_hvg", set_size=64, seed=seed)
    model = StateTransitionForPerturbation.from_pretrained(full)
    fit_perturbation_offsets(model, sets, standard_errors=0)
    model.save_pretrained(saved)
    return saved


def recipe(name: str, info: dict, folder: Path, seeds: Sequence[int], steps: int) -> Path:
    """What `state-hf train --refit` makes: a mixed model, and networks as far as they add to it where none trained.

    They train without perturbations of one training context, whose cells show what they add there and how far the mixed
    model is off. Then the mixed model is that of all training cells. With several seeds, `--ensemble`.
    """
    saved = folder / f"st_{name}_recipe_s{'_'.join(map(str, seeds))}"
    split, slot = applied_split(name, info, folder, validated=True), "obsm/X_hvg"
    train_sets, held_out = (
        PerturbationDataset(split.screens, split=split, part=part, features=slot, set_size=64)
        for part in ("train", "val")
    )
    networks = [
        StateTransitionForPerturbation.from_pretrained(train(name, info, folder, seed, steps, kind="validated"))
        for seed in seeds
    ]
    model = networks[0]
    said = [average_effects(network, train_sets) for network in networks]
    attach_mixed_effects(model, screen_means(split.screens, split, slot=slot), said)
    found = fit_effect_scale(model, held_out, screen_means(split.screens, split, slot=slot, part="val"))
    print(f"{name} seeds {seeds}: {found}", flush=True)
    split = applied_split(name, info, folder)
    refit_mixed_effects(model, screen_means(split.screens, split, slot=slot))
    model.save_pretrained(saved)
    return saved


def test_context(name: str, info: dict, folder: Path, *, disjoint: bool) -> anndata.AnnData:
    """The control cells that inference sees."""
    cells = anndata.read_h5ad(folder / f"{name}.h5ad")
    rows = np.flatnonzero((cells.obs["role"] == "control") & (cells.obs["context"] == info["test_context"]))
    if disjoint:  # the judge's halves: the first is the predictors', the second the truth's
        order = np.random.default_rng(7).permutation(rows)
        rows = np.sort(order[: len(order) // 2])
    cells.uns["X_hvg"] = {"var_names": cells.var_names.to_list()}
    return cells[rows].copy()


def write_predictions(
    name: str, info: dict, folder: Path, model: Path, seed: int, *, emit: str, label: str, disjoint: bool
) -> None:
    """Predict as many cells as the test has, and write them under the names of the test's cells."""
    whole = anndata.read_h5ad(folder / f"{name}.h5ad", backed="r").obs
    test = whole[whole["role"] == "test"]
    controls = test_context(name, info, folder, disjoint=disjoint)
    counts = test["perturbation"].astype(str).value_counts().sort_index()
    counts[info["control"]] = len(controls)
    plan = pd.DataFrame({"perturbation": counts.index, "cells": counts.to_numpy()})
    predicted = predict(controls, model, plan, cell_type_key="context", controls="none", emit=emit, seed=seed)
    labels = predicted.obs["perturbation"].astype(str).to_numpy()
    names = [test.index[test["perturbation"] == label].to_numpy(str) for label in plan["perturbation"]]
    order = [np.flatnonzero(labels == label) for label in plan["perturbation"]]
    cells = predicted.X.toarray().astype(np.float32)
    own = labels == info["control"]
    suffix = "_disjoint" if disjoint else ""
    np.savez(
        folder / f"pred_{name}_st_s{label}{suffix}.npz",
        cells=np.concatenate(names),
        X=cells[np.concatenate([rows for rows, group in zip(order, names, strict=True) if len(group)])],
        C=cells[own],
    )


def main() -> None:
    """Train and predict every split and seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("splits", nargs="+")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44])
    parser.add_argument("--steps", type=int, default=3000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    splits = json.loads((arguments.work / "splits.json").read_text(encoding="utf-8"))
    for seed in arguments.seeds:
        for name in arguments.splits:
            info = splits[name]
            plain, full = (
                train(name, info, arguments.work, seed, arguments.steps, kind=kind) for kind in ("plain", "full")
            )
            written = (
                (plain, "model", ""),
                (plain, "tilted", "tilted"),
                (full, "tilted", "full"),
                (all_offsets(name, info, arguments.work, full, seed), "tilted", "all"),
                (recipe(name, info, arguments.work, [seed], arguments.steps), "tilted", "recipe"),
                *(
                    (baseline(name, info, arguments.work, method), "tilted", label)
                    for label, method in BASELINES.items()
                ),
            )
            for model, emit, label in written:
                write(name, info, arguments.work, model, seed, emit=emit, label=f"{label}{seed}")
    for name in arguments.splits:
        together = recipe(name, splits[name], arguments.work, arguments.seeds, arguments.steps)
        write(name, splits[name], arguments.work, together, arguments.seeds[0], emit="tilted", label="ensemble")


def write(name: str, info: dict, folder: Path, model: Path, seed: int, *, emit: str, label: str) -> None:
    """The predictions of both protocols."""
    for disjoint in (False, True):
        write_predictions(name, info, folder, model, seed, emit=emit, label=label, disjoint=disjoint)


if __name__ == "__main__":
    main()
