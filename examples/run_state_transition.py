#!/usr/bin/env python
"""Train a State Transition model on a perturbation screen, and score it beside the baselines.

The screen holds log1p-normalised expression (`state-hf preprocess` makes it), or an embedding in obsm.

python examples/run_state_transition.py --screen_files screen.h5ad --feature_key X_hvg \
    --validation_cell_types RPE1 --test_cell_types K562 --output_dir model \
    --do_train --do_eval --do_predict --max_steps 3000 --eval_strategy steps --eval_steps 500 \
    --load_best_model_at_end --evaluation_profile vcc2025

A split in the field's TOML, which also names the files:  --split_file split.toml
A trained model taken to a new screen:                    --model_name_or_path model [--freeze] [--lora_rank 16]
Going on after an interruption:                           --resume_from_checkpoint true
Several processes:                                        accelerate launch examples/run_state_transition.py ...
Sending the model to the hub:                             --push_to_hub --hub_model_id name
All of it from a file:                                    python examples/run_state_transition.py arguments.json
"""

import gc
import logging
import sys
from dataclasses import dataclass, field
from pathlib import Path

import transformers
from accelerate import PartialState
from transformers import EarlyStoppingCallback, HfArgumentParser, set_seed

from state_hf import (
    PerturbationDataset,
    PerturbationSplit,
    PerturbationVocabulary,
    StateTransitionConfig,
    StateTransitionForPerturbation,
    StateTransitionTrainer,
    StateTransitionTrainingArguments,
    open_screens,
)
from state_hf.data.screens.split_definition import zeroshot_split
from state_hf.data.screens.split_toml import dataset_files, read_split_toml
from state_hf.inference.model_scale import trained_total
from state_hf.training.baseline_fitting import fit_baselines
from state_hf.training.checkpoints import last_complete_checkpoint
from state_hf.training.effect_scale import attach_mixed_effects, fit_effect_scale
from state_hf.training.predicted_profiles import average_effects
from state_hf.training.profile_scores import score_models, scores_text
from state_hf.training.screen_means import screen_means
from state_hf.training.transfer import add_lora, freeze_backbone, replace_perturbations

logger = logging.getLogger(__name__)


@dataclass
class ModelArguments:
    """The model: a trained one, or the sizes of a new one."""

    model_name_or_path: str | None = field(default=None, metadata={"help": "Trained model to start from."})
    freeze: bool = field(default=False, metadata={"help": "Keep its backbone and output projection as they are."})
    lora_rank: int | None = field(default=None, metadata={"help": "Train low-rank changes of its backbone instead."})
    hidden_size: int = field(default=768, metadata={"help": "Width."})
    num_hidden_layers: int = field(default=8, metadata={"help": "Layers."})
    num_attention_heads: int = field(default=12, metadata={"help": "Attention heads."})
    intermediate_size: int = field(default=3072, metadata={"help": "Width of a layer's feed-forward block."})
    loss: str = field(default="energy", metadata={"help": "Distance between predicted and real sets of cells."})


@dataclass
class DataArguments:
    """The screen, and what of it is held out."""

    screen_files: list[str] = field(default_factory=list, metadata={"help": ".h5ad files, unless the split has them."})
    split_file: str | None = field(default=None, metadata={"help": "Split in the field's TOML."})
    validation_cell_types: list[str] = field(default_factory=list, metadata={"help": "Held out to validate on."})
    test_cell_types: list[str] = field(default_factory=list, metadata={"help": "Held out to test on."})
    perturbation_key: str = field(default="perturbation", metadata={"help": "Column of obs."})
    control: str = field(default="non-targeting", metadata={"help": "Label of control cells."})
    cell_type_key: str = field(default="cell_type", metadata={"help": "Column of obs."})
    feature_key: str = field(default="X", metadata={"help": "X, a key of obsm, or layers/NAME."})
    set_size: int = field(default=64, metadata={"help": "Most cells of a set."})
    early_stopping_patience: int | None = field(
        default=None, metadata={"help": "Stop after so many evaluations without improvement."}
    )


def open_split(arguments: DataArguments, seed: int) -> PerturbationSplit:
    """The screen's labels, and which of its cells train."""
    labels = {
        "perturbation_key": arguments.perturbation_key,
        "control": arguments.control,
        "cell_type_key": arguments.cell_type_key,
    }
    if arguments.split_file is not None:
        definition = read_split_toml(arguments.split_file)
        screens = open_screens(dataset_files(definition), **labels)
    else:
        screens = open_screens(arguments.screen_files, **labels)
        definition = zeroshot_split(screens, val=arguments.validation_cell_types, test=arguments.test_cell_types)
    return PerturbationSplit(screens, definition, seed=seed)


def slot_of(arguments: DataArguments) -> str:
    """Where the features are: names that are no slots are keys of obsm."""
    features = arguments.feature_key
    return features if features == "X" or "/" in features else f"obsm/{features}"


def open_sets(split: PerturbationSplit, part: str, arguments: DataArguments, seed: int) -> PerturbationDataset | None:
    """The sets of a part of the split; None if it has no cells."""
    audit = split.audit()
    if not audit.loc[audit["part"] == part, "perturbed_cells"].sum():
        return None
    return PerturbationDataset(
        split.screens, split=split, part=part, features=slot_of(arguments), set_size=arguments.set_size, seed=seed
    )


def make_model(
    arguments: ModelArguments, data: DataArguments, sets: PerturbationDataset
) -> StateTransitionForPerturbation:
    """A new model for the screen, or a trained one with the screen's perturbations."""
    screens = sets.screens
    vocabulary = PerturbationVocabulary(
        screens.perturbations, screens.control, screens.batches, screens.cell_types, sets.target_names or ()
    )
    if arguments.model_name_or_path is not None:
        model = StateTransitionForPerturbation.from_pretrained(arguments.model_name_or_path)
        replace_perturbations(model, vocabulary)
        if arguments.freeze:
            freeze_backbone(model)
        return model
    config = StateTransitionConfig(
        input_dim=sets.input_size,
        perturbation_dim=len(screens.perturbations),
        hidden_size=arguments.hidden_size,
        num_hidden_layers=arguments.num_hidden_layers,
        num_attention_heads=arguments.num_attention_heads,
        intermediate_size=arguments.intermediate_size,
        loss=arguments.loss,
        feature_key=data.feature_key,
        cell_set_length=data.set_size,
    )
    model = StateTransitionForPerturbation(config)
    model.vocabulary = vocabulary
    return model


def main() -> None:
    """Train, evaluate, and predict, as the arguments say."""
    parser = HfArgumentParser((ModelArguments, DataArguments, StateTransitionTrainingArguments))
    if len(sys.argv) == 2 and sys.argv[1].endswith(".json"):
        model_arguments, data_arguments, training_arguments = parser.parse_json_file(sys.argv[1])
    else:
        model_arguments, data_arguments, training_arguments = parser.parse_args_into_dataclasses()
    logging.basicConfig(format="%(asctime)s %(name)s: %(message)s", level=logging.INFO, stream=sys.stdout)
    transformers.utils.logging.set_verbosity(training_arguments.get_process_log_level())
    set_seed(training_arguments.seed)
    seed, folder = training_arguments.seed, Path(training_arguments.output_dir)

    # The data
    split = open_split(data_arguments, seed)
    parts = {part: open_sets(split, part, data_arguments, seed) for part in ("train", "val", "test")}
    if parts["train"] is None:
        raise ValueError(f"no perturbed cells train with this split:\n{split}")
    if training_arguments.should_log:
        logger.info("\n%s", split)

    # The model
    model = make_model(model_arguments, data_arguments, parts["train"])
    # Refused are cells on another scale than the model reads, and files that were normalised to different totals.
    model.config.target_sum = trained_total(
        model.config, split.screens, slot_of(data_arguments), None, given=None, initial=model.config.target_sum
    )
    vocabulary, rank = model.vocabulary, model_arguments.lora_rank
    patience = data_arguments.early_stopping_patience
    trainer = StateTransitionTrainer(
        model if rank is None else add_lora(model, rank=rank, alpha=2 * rank),
        training_arguments,
        train_dataset=parts["train"],
        eval_dataset=parts["val"],
        callbacks=[] if patience is None else [EarlyStoppingCallback(patience)],
    )

    # Training
    if training_arguments.do_train:
        resume = training_arguments.resume_from_checkpoint
        if resume is not None and resume.lower() in ("true", "false"):
            resume = last_complete_checkpoint(folder) if resume.lower() == "true" else None
        result = trainer.train(resume)
        trained = trainer.accelerator.unwrap_model(trainer.model)
        trainer.model = trained if rank is None else trained.merge_and_unload()
        # What is expected of the training cells without a network, and how much of what the network says beyond that
        # validation confirms.
        slot = parts["train"].slots["target"]
        if trainer.model.config.feature_scale == "log1p":
            means = screen_means(split.screens, split, slot=slot)
            attach_mixed_effects(trainer.model, means, [average_effects(trainer.model, parts["train"])])
            if parts["val"] is not None:
                seen = screen_means(split.screens, split, slot=slot, part="val")
                fit_effect_scale(trainer.model, parts["val"], seen)
        trainer.save_model()
        trainer.save_state()
        if trainer.is_world_process_zero():
            split.save(folder)
        trainer.log_metrics("train", result.metrics)
        trainer.save_metrics("train", result.metrics)

    # Evaluation: the losses and, with --evaluation_profile, the metrics of the challenge
    if training_arguments.do_eval and parts["val"] is not None:
        metrics = trainer.evaluate()
        trainer.log_metrics("eval", metrics)
        trainer.save_metrics("eval", metrics)

    # The held-out part, beside the baselines
    if training_arguments.do_predict and parts["test"] is not None and trainer.is_world_process_zero():
        slot = parts["test"].slots["target"]
        baselines = fit_baselines(
            screen_means(split.screens, split, slot=slot),
            vocabulary,
            feature_key=data_arguments.feature_key,
            feature_scale=model.config.feature_scale,
            target_sum=model.config.target_sum,
            cell_set_length=data_arguments.set_size,
        )
        # The mean of a context's own perturbations needs some of them in training.
        audit = split.audit().query("perturbed_cells > 0")
        types = {part: set(audit.loc[audit["part"] == part, "cell_type"]) for part in ("train", "test")}
        if not types["test"] <= types["train"]:
            del baselines["context_profile"]
        models = {"state_transition": trainer.accelerator.unwrap_model(trainer.model), **baselines}
        scores = score_models(models, parts["test"], screen_means(split.screens, split, slot=slot, part="test"))
        scores.to_csv(folder / "scores.csv")
        logger.info("\n%s", scores_text(scores))
        for name, baseline in baselines.items():
            baseline.save_pretrained(folder / "baselines" / name)

    if training_arguments.push_to_hub:
        trainer.push_to_hub(tags=["single-cell", "perturbation"])


if __name__ == "__main__":
    main()
    # Threads of a process group end with it, if nothing holds it. Those that outlive the interpreter abort the process.
    gc.collect()
    PartialState().destroy_process_group()
