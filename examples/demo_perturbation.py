"""A perturbation screen from cells to scores, in two minutes: train ST and the baselines, predict, evaluate.

make demo                        # a generated screen
make demo DATA=screen.h5ad       # your own, if it holds perturbations and controls

python examples/demo_perturbation.py --data screen.h5ad --perturbation_key condition --control ctrl \
    --cell_type_key cell_line --output_dir demo

Half of the perturbations of one cell type are held out; their other cell types train.
"""

import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
from transformers import HfArgumentParser, set_seed
from transformers.utils import logging

import state_hf
from state_hf import StateTransitionTrainingArguments, generate_screen, open_screens
from state_hf.data.screens.split_definition import SplitDefinition, contexts_of
from state_hf.pipelines.preprocess import preprocess
from state_hf.tokenization.input_scale import check_input_type

PERTURBATION_COLUMNS = ("perturbation", "target_gene", "gene", "condition", "guide")
CONTROL_LABELS = ("non-targeting", "control", "ctrl", "NT")
CONTEXT_COLUMNS = ("cell_type", "cell_line", "context", "condition", "bio_rep", "donor", "replicate", "batch")
MODEL = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}


@dataclass
class DemoArguments:
    """What to run the demo on."""

    data: str | None = field(default=None, metadata={"help": "An .h5ad file. Default: a generated screen."})
    perturbation_key: str | None = field(default=None, metadata={"help": "Column of obs. Default: the usual names."})
    control: str | None = field(default=None, metadata={"help": "Label of control cells. Default: the usual ones."})
    cell_type_key: str | None = field(default=None, metadata={"help": "Column of cell types, or another context."})
    output_dir: str = field(default="demo", metadata={"help": "Folder for the results."})
    max_steps: int = field(default=2000, metadata={"help": "Training steps."})
    seed: int = field(default=0, metadata={"help": "Seed of everything."})


@dataclass
class Columns:
    """Where the labels of a screen are."""

    perturbation: str
    control: str
    cell_type: str


def find_columns(arguments: DemoArguments, obs: pd.DataFrame) -> Columns | None:
    """The columns of a screen; None if there are no perturbations with controls in two contexts."""
    for key in [arguments.perturbation_key] if arguments.perturbation_key else PERTURBATION_COLUMNS:
        labels = set(obs[key].astype(str)) if key in obs else set()
        controls = [name for name in [arguments.control or CONTROL_LABELS] for name in np.atleast_1d(name)]
        found = [name for name in controls if name in labels]
        contexts = [arguments.cell_type_key] if arguments.cell_type_key else CONTEXT_COLUMNS
        contexts = [name for name in contexts if name in obs and name != key and obs[name].nunique() > 1]
        if found and contexts:
            return Columns(key, str(found[0]), contexts[0])
    return None


def read_screen(arguments: DemoArguments, folder: Path) -> tuple[Path, Columns]:
    """A screen with log1p-normalised X, and its columns."""
    path, columns = folder / "screen.h5ad", None
    if arguments.data is not None:
        columns = find_columns(arguments, ad.read_h5ad(arguments.data, backed="r").obs)
        if columns is None:
            print(f"{arguments.data} is no perturbation screen that the demo recognises; here is a generated one.")
    if columns is None or arguments.data is None:
        # Genes and mean expression of blood cells; X holds scaled values there, and raw the log-normalised ones.
        blood = sc.datasets.pbmc68k_reduced().raw.to_adata()
        blood.X = blood.X.expm1()
        screen = generate_screen(
            num_perturbations=24, cells_per_perturbation=50, controls=250, depth=3000, reference=blood
        )
        screen.write_h5ad(folder / "counts.h5ad")
        source, columns = folder / "counts.h5ad", Columns("perturbation", "non-targeting", "cell_type")
    else:
        source = Path(arguments.data)
    cells = ad.read_h5ad(source, backed="r")
    if check_input_type(cells[: min(1000, cells.n_obs)].to_memory().X, "auto") == "counts":
        print(preprocess(source, output=path, overwrite=True))
        return path, columns
    return source, columns


def hold_out(path: Path, columns: Columns, seed: int) -> tuple[SplitDefinition, str, list[str]]:
    """The split, its test context, and the perturbations that are held out there."""
    screens = open_screens(
        path, perturbation_key=columns.perturbation, control=columns.control, cell_type_key=columns.cell_type
    )
    contexts = contexts_of(screens)
    shared = {
        context: sorted(labels & set().union(*(other for name, other in contexts.items() if name != context)))
        for context, labels in contexts.items()
    }
    context = max(shared, key=lambda name: (len(shared[name]), name[1]))
    if not shared[context]:
        sys.exit(f"{path} has no perturbation in two of {', '.join(screens.cell_types)}, so nothing can be transferred")
    count = max(1, len(shared[context]) // 2)
    held_out = np.random.default_rng(seed).permutation(shared[context])[:count].tolist()
    definition = SplitDefinition(training=(context[0],), fewshot={context: {"test": sorted(held_out)}})
    return definition, context[1], sorted(held_out)


def score(folder: Path, screen: Path, columns: Columns, context: str, held_out: list[str]) -> pd.DataFrame:
    """Predict the held-out part with every model, and evaluate the files that this gives."""
    cells = ad.read_h5ad(screen)
    labels = cells.obs[columns.perturbation].astype(str)
    in_context = (cells.obs[columns.cell_type].astype(str) == context).to_numpy()
    real = cells[in_context & labels.isin([columns.control, *held_out]).to_numpy()].copy()
    counts = real.obs[columns.perturbation].astype(str).value_counts()
    wanted = pd.DataFrame({"perturbation": held_out, "cells": counts[held_out].to_numpy(), "cell_type": context})
    rows = {}
    for name in ("state_transition", *sorted(path.name for path in (folder / "baselines").iterdir())):
        model = folder if name == "state_transition" else folder / "baselines" / name
        predicted = state_hf.predict(
            real,
            model,
            wanted,
            perturbation_key=columns.perturbation,
            cell_type_key=columns.cell_type,
            output=folder / f"predicted_{name}.h5ad",
            overwrite=True,
        )
        result = state_hf.evaluate_predictions(
            predicted,
            real,
            "vcc2025",
            perturbation_key=columns.perturbation,
            control=columns.control,
            baseline="mean",
            on_error="nan",
        )
        values = result.to_dict()
        rows[name] = {metric: values[metric] for metric in ("mae", "pds", "des", "overall_score")}
    return pd.DataFrame(rows).T.rename_axis("model")


def main() -> None:
    """Run the demo."""
    (arguments,) = HfArgumentParser(DemoArguments).parse_args_into_dataclasses()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    set_seed(arguments.seed)
    folder = Path(arguments.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    screen, columns = read_screen(arguments, folder)
    definition, context, held_out = hold_out(screen, columns, arguments.seed)
    model = folder / f"state_transition_{time.strftime('%Y%m%d_%H%M%S')}"
    trained = state_hf.train(
        screen,
        model,
        split=definition,
        training=StateTransitionTrainingArguments(
            output_dir=str(model),
            max_steps=arguments.max_steps,
            learning_rate=1e-3,
            save_strategy="no",
            logging_steps=500,
            disable_tqdm=True,
            report_to="none",
            seed=arguments.seed,
        ),
        config=MODEL,
        set_size=32,
        perturbation_key=columns.perturbation,
        control=columns.control,
        cell_type_key=columns.cell_type,
    )
    table = score(model, screen, columns, context, held_out)
    table = table.join(trained.scores[["pearson_delta", "energy_distance"]]).sort_values("overall_score")[::-1]
    table.to_csv(folder / "prediction_scores.csv")
    print(f"\n{trained.split}\n")
    print(f"{len(held_out)} perturbations of {context} are held out. mae, pds, des and the overall score are those of")
    print("the Virtual Cell Challenge 2025. Lower is better for mae and energy_distance, higher for the others.\n")
    print(f"{table.round(3).to_string()}\n")
    print(f"The predicted cells are in {model}, the table in {folder / 'prediction_scores.csv'}.")


if __name__ == "__main__":
    main()
