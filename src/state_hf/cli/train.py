"""Train a State Transition model on a perturbation screen, with the baselines that it has to beat beside it.

The features must be what the model is to predict from and in: log1p-normalised expression (state-hf preprocess makes
it, in X and obsm["X_hvg"]), or an embedding in obsm. The folder receives the model, its vocabulary, the split, the
baselines, the checkpoints, and the table of scores on the held-out cells, which is printed.

example:
  state-hf train screen.h5ad --feature-key X_hvg --test-cell-types K562 --output model

a split in the field's TOML, several processes:
  accelerate launch --num_processes 2 -m state_hf train --split split.toml --feature-key X_hvg --output model

and on a CPU:
  torchrun --nproc_per_node 2 -m state_hf train --split split.toml --feature-key X_hvg --output model --device cpu
"""

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from state_hf.data.cells.locations import CELL_FORMATS, as_location


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `state-hf train`."""
    parser.add_argument(
        "input", nargs="*", type=as_location, metavar="SCREEN", help=f"unless the split names them: {CELL_FORMATS}"
    )
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder for the model")
    parser.add_argument("--overwrite", action="store_true", help="replace a training in the folder, and start anew")
    parser.add_argument("--resume", action="store_true", help="go on from the last complete checkpoint in the folder")

    split = parser.add_argument_group(
        "what is held out (at most one of the first three; without any, a part validates, and trains in the end)"
    )
    split.add_argument("--split", type=Path, metavar="TOML", help="split in the field's TOML")
    split.add_argument("--test-cell-types", nargs="+", metavar="NAME", help="cell types to test on")
    split.add_argument("--test-share", type=float, metavar="F", help="share of the perturbations to test on")
    split.add_argument("--val-cell-types", nargs="+", default=(), metavar="NAME", help="cell types to validate on")
    split.add_argument(
        "--val-share",
        type=float,
        default=0.0,
        metavar="F",
        help="share of the perturbations to validate on (beside --test-cell-types: of those of the other cell types)",
    )
    split.add_argument(
        "--few-shot-cell-types",
        nargs="+",
        metavar="NAME",
        help="cell types in which these shares are held out; elsewhere they train (default: held out everywhere)",
    )
    split.add_argument(
        "--split-controls",
        choices=("shared", "train-only", "held-out"),
        default="shared",
        help="where control cells of held-out contexts go (default: shared)",
    )

    split.add_argument(
        "--refit",
        action="store_true",
        help="let the mixed model and the baselines learn from the validation cells too, when these have said what the "
        "network adds; the split that is saved then has no validation part",
    )

    labels = parser.add_argument_group("what the files hold")
    labels.add_argument("--perturbation-key", default="perturbation", metavar="NAME", help="column of obs")
    labels.add_argument("--control", default="non-targeting", metavar="LABEL", help="label of control cells")
    labels.add_argument(
        "--cell-type-key", default="cell_type", metavar="NAME", help="column of obs, or another context"
    )
    labels.add_argument("--batch-key", metavar="NAME", help="column of obs")
    labels.add_argument(
        "--distinct-case", action="store_true", help="labels that differ in upper and lower case are different things"
    )
    labels.add_argument(
        "--feature-key", default="X", metavar="NAME", help="X, a key of obsm, or layers/NAME (default: X)"
    )
    labels.add_argument("--expression-slot", metavar="SLOT", help="expression to decode, where features are embeddings")
    labels.add_argument(
        "--perturbation-features",
        type=Path,
        metavar="FILE",
        help="vectors by name (.safetensors, .parquet, .csv, .tsv, .h5ad) that the model reads instead of names; "
        "predict then knows all that it names, whether they trained or not",
    )
    labels.add_argument("--target-sum", type=float, metavar="N", help="counts per cell that they were normalised to")

    model = parser.add_argument_group("the model")
    for name, text in (
        ("hidden-size", "width"),
        ("num-hidden-layers", "layers"),
        ("num-attention-heads", "attention heads"),
        ("intermediate-size", "width of a layer's feed-forward block"),
        ("num-encoder-layers", "linear layers of the encoders"),
    ):
        model.add_argument(f"--{name}", type=int, metavar="N", help=f"{text} (default: by the size of the screen)")
    model.add_argument(
        "--config",
        nargs="+",
        default=(),
        metavar="FIELD=VALUE",
        help="other fields of StateTransitionConfig, as use_batch_encoder=true loss=energy_sinkhorn gene_decoder=mlp",
    )
    model.add_argument("--set-size", type=int, default=64, metavar="N", help="cells of a set (default: 64)")
    model.add_argument(
        "--control-matching", choices=("random", "batch"), default="random", help="how controls are drawn"
    )
    model.add_argument("--initial-model", metavar="M", help="trained model to start from; it gets this screen's labels")
    model.add_argument("--freeze", action="store_true", help="keep its backbone and output projection as they are")
    model.add_argument("--lora-rank", type=int, metavar="R", help="train low-rank changes of its backbone instead")

    training = parser.add_argument_group("how it is trained")
    training.add_argument("--steps", type=int, metavar="N", help="training steps (default: by the size of the screen)")
    training.add_argument("--batch-size", type=int, default=8, metavar="N", help="sets a step and process (default: 8)")
    training.add_argument(
        "--gradient-accumulation", type=int, default=1, metavar="N", help="batches added up to a step (default: 1)"
    )
    training.add_argument(
        "--learning-rate", type=float, metavar="R", help="of AdamW (default: by the size of the screen)"
    )
    training.add_argument(
        "--schedule",
        choices=("constant", "cosine"),
        help="how the learning rate changes: not at all, or up in the first thirtieth of the steps and then down to 0 "
        "(default: by the size of the screen)",
    )
    training.add_argument(
        "--ensemble",
        type=int,
        default=1,
        metavar="N",
        help="networks, with seeds from --seed on, whose effects are averaged (default: 1)",
    )
    training.add_argument("--evaluate-every", type=int, metavar="N", help="steps (default: a tenth of all)")
    training.add_argument(
        "--evaluation-profile", metavar="NAME", help="report these challenge metrics too, as vcc2025 (on a sample)"
    )
    training.add_argument(
        "--evaluation-cells", type=int, default=10_000, metavar="N", help="most cells of that sample (default: 10,000)"
    )
    training.add_argument(
        "--best-by",
        choices=("loss", "profile"),
        default="loss",
        help="what chooses the checkpoint: validation loss, or overall score of the profile (default: loss)",
    )
    training.add_argument("--patience", type=int, metavar="N", help="stop after N evaluations without improvement")
    training.add_argument("--bf16", action="store_true", help="compute in bfloat16 where that is safe")
    training.add_argument("--gradient-checkpointing", action="store_true", help="less memory, more time")
    training.add_argument("--device", choices=("auto", "cpu"), default="auto", help="cpu even if there is a GPU")
    training.add_argument("--report-to", default="none", metavar="NAME", help="tensorboard, wandb, ... (default: none)")
    training.add_argument("--seed", type=int, default=0, help="seed of everything (default: 0)")


def _definition(arguments: argparse.Namespace, screens: Any) -> Any:
    from state_hf.data.screens.split_definition import random_split, zeroshot_split

    if _says_nothing(arguments):
        return _validating(screens, arguments.seed)
    if arguments.test_share is None:
        return zeroshot_split(
            screens,
            test=arguments.test_cell_types or (),
            val=arguments.val_cell_types,
            val_share=arguments.val_share,
            cell_types=arguments.few_shot_cell_types,
            seed=arguments.seed,
        )
    return random_split(
        screens,
        val=arguments.val_share,
        test=arguments.test_share,
        cell_types=arguments.few_shot_cell_types,
        seed=arguments.seed,
    )


def _says_nothing(arguments: argparse.Namespace) -> bool:
    """Whether no option says what is held out."""
    said = (arguments.split, arguments.test_cell_types, arguments.test_share, arguments.val_cell_types)
    return all(choice in (None, ()) for choice in said) and not arguments.val_share


def _validating(screens: Any, seed: int) -> Any:
    """Nothing to test on: the cell type with the fewest perturbed cells, or a fifth of the perturbations, validates."""
    from state_hf.data.screens.split_definition import random_split, zeroshot_split

    cells: Counter[str] = Counter()
    for screen in screens.screens:
        cells.update(screens.cell_types[cell_type] for cell_type in screen.cell_types[~screen.is_control].tolist())
    if len(cells) > 1:
        name = min(sorted(cells), key=cells.__getitem__)
        told, definition = f"the cell type {name!r}", zeroshot_split(screens, test=(), val=[name])
    else:
        told, definition = "a fifth of the perturbations", random_split(screens, val=0.2, test=0.0, seed=seed)
    print(f"no cells are held out to test on: {told} shows what the network adds, and trains the mixed model then")
    return definition


def _check_held_out(arguments: argparse.Namespace) -> None:
    """Refuse options that what is held out leaves no meaning."""
    chosen = [arguments.split, arguments.test_cell_types, arguments.test_share]
    if sum(choice is not None for choice in chosen) > 1:
        raise ValueError("cells to test on are named in one way: by --split, by --test-cell-types or by --test-share")
    if arguments.split is not None:
        given = {
            "--val-cell-types": arguments.val_cell_types,
            "--val-share": arguments.val_share,
            "--few-shot-cell-types": arguments.few_shot_cell_types,
        }
        if unused := [option for option, value in given.items() if value]:
            raise ValueError(
                f"{arguments.split} says what validates, so {unused[0]} cannot; write that into the file, or leave it "
                "out"
            )
    elif arguments.test_share is not None and arguments.val_cell_types:
        raise ValueError(
            "--val-cell-types holds out whole cell types, and --test-share tests on perturbations of all of them; "
            "validate on perturbations, too (--val-share), or test on cell types (--test-cell-types)"
        )
    elif arguments.few_shot_cell_types and arguments.test_share is None and not arguments.val_share:
        raise ValueError(
            "--few-shot-cell-types says where shares of the perturbations are held out, and beside --test-cell-types "
            "that is the share to validate on; say how large it is (--val-share), or leave it out"
        )


def _recipe(arguments: argparse.Namespace, screens: Any) -> Any:
    """What suits the screen, with what was chosen in place of it."""
    from state_hf.training.recipe import Recipe, recipe_for

    cells = sum(int((~screen.is_control).sum()) for screen in screens.screens)
    suits = recipe_for(cells)
    given = {name: value for name in suits.sizes if (value := getattr(arguments, name)) is not None}
    chosen = Recipe(
        # A model to start from has its sizes; those that were chosen beside it are refused later.
        given if arguments.initial_model is not None else {**suits.sizes, **given},
        suits.steps if arguments.steps is None else arguments.steps,
        suits.learning_rate if arguments.learning_rate is None else arguments.learning_rate,
        suits.schedule if arguments.schedule is None else arguments.schedule,
    )
    print(f"{cells:,} perturbed cells: {chosen}")
    return chosen


def _training(arguments: argparse.Namespace, recipe: Any, *, validates: bool) -> Any:
    from state_hf.training.state_transition_arguments import StateTransitionTrainingArguments

    best = "loss"
    if arguments.best_by == "profile":
        if arguments.evaluation_profile is None:
            raise ValueError("--best-by profile needs an --evaluation-profile")
        best = f"{arguments.evaluation_profile}_overall_score"
    return StateTransitionTrainingArguments(
        output_dir=str(arguments.output / "checkpoints"),
        max_steps=recipe.steps,
        per_device_train_batch_size=arguments.batch_size,
        gradient_accumulation_steps=arguments.gradient_accumulation,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type=recipe.schedule,
        warmup_steps=recipe.steps // 30 if recipe.schedule == "cosine" else 0,
        eval_strategy="steps" if validates else "no",
        eval_steps=arguments.evaluate_every or max(1, recipe.steps // 10),
        save_steps=arguments.evaluate_every or max(1, recipe.steps // 10),
        save_total_limit=2,
        load_best_model_at_end=validates,
        metric_for_best_model=best if validates else None,
        evaluation_profile=arguments.evaluation_profile,
        evaluation_cells=arguments.evaluation_cells,
        bf16=arguments.bf16,
        activation_checkpointing=arguments.gradient_checkpointing,
        use_cpu=arguments.device == "cpu",
        report_to=arguments.report_to,
        logging_steps=max(1, min(100, recipe.steps // 20)),
        seed=arguments.seed,
    )


def _config_fields(words: Sequence[str]) -> dict[str, Any]:
    from dataclasses import fields

    from state_hf.configuration.near_names import nearest
    from state_hf.configuration.state_transition import StateTransitionConfig

    known = {field.name: field.type for field in fields(StateTransitionConfig)}
    chosen = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals:
            raise ValueError(f"--config takes FIELD=VALUE, and not {word!r}")
        if name not in known:
            raise ValueError(f"StateTransitionConfig has no field {name!r}; {nearest(name, list(known))}")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        chosen[name] = float(value) if known[name] is float and isinstance(value, int) else value
    return chosen


def run(arguments: argparse.Namespace) -> int:
    """Train, and print the split and the table of scores."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import EarlyStoppingCallback

    from state_hf.data.screens.perturbation_screens import open_screens
    from state_hf.data.screens.split_toml import dataset_files, read_split_toml
    from state_hf.pipelines.train import train

    _check_held_out(arguments)
    definition = None if arguments.split is None else read_split_toml(arguments.split)
    files = arguments.input or (definition and dataset_files(definition))
    if not files:
        raise ValueError("name the screen's files")
    with open_screens(
        files,
        perturbation_key=arguments.perturbation_key,
        control=arguments.control,
        cell_type_key=arguments.cell_type_key,
        distinct_case=arguments.distinct_case,
    ) as screens:
        definition = definition or _definition(arguments, screens)
        recipe = _recipe(arguments, screens)
    validates = "val" in definition.zeroshot.values() or any(lists.get("val") for lists in definition.fewshot.values())
    if arguments.patience is not None and not validates:
        raise ValueError("--patience needs a validation part: hold some out (--val-cell-types, --val-share)")
    chosen = {**recipe.sizes, **_config_fields(arguments.config)}
    same = (
        "output", "initial_model", "freeze", "lora_rank", "perturbation_key", "control", "cell_type_key", "batch_key",
        "distinct_case",
        "feature_key", "expression_slot", "perturbation_features",
        "target_sum", "set_size", "control_matching", "split_controls", "ensemble", "resume", "overwrite",
    )  # fmt: skip
    try:
        trained = train(
            arguments.input or None,
            split=definition,
            training=_training(arguments, recipe, validates=validates),
            config=chosen,
            refit=arguments.refit or _says_nothing(arguments),
            callbacks=[EarlyStoppingCallback(arguments.patience)] if arguments.patience is not None else (),
            **{name: getattr(arguments, name) for name in same},
        )
    except StrictDataclassError as error:
        raise ValueError(f"the model's configuration: {error}") from error
    print(trained)
    scores = "" if trained.scores is None else ", the scores"
    print(f"\nWrote {trained.folder}: the model, {len(trained.baselines)} baselines, the split{scores}")
    return 0
