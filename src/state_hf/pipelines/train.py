"""From a screen to a trained State Transition model, with the baselines beside it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
from transformers import set_seed
from transformers.utils import logging

from state_hf.configuration.advice import Advised
from state_hf.configuration.model_folders import loading_from, refuse_missing_weights
from state_hf.configuration.perturbation_vocabulary import PerturbationVocabulary
from state_hf.configuration.state_transition import StateTransitionConfig
from state_hf.configuration.wording import listed
from state_hf.data.screens.context_depths import depth_notes, detected_genes
from state_hf.data.screens.named_genes import check_named_genes
from state_hf.data.screens.perturbation_dataset import PerturbationDataset
from state_hf.data.screens.perturbation_features import (
    feature_table,
    read_perturbation_features,
    save_perturbation_features,
)
from state_hf.data.screens.perturbation_screens import PerturbationScreens, open_screens
from state_hf.data.screens.perturbation_sets import ControlMatching
from state_hf.data.screens.split_definition import SplitDefinition, SplitPart
from state_hf.data.screens.split_toml import dataset_files, read_split_toml
from state_hf.data.screens.splits import PerturbationSplit, SplitControls
from state_hf.data.whole_files import written_whole
from state_hf.inference.cell_predictor import feature_slot
from state_hf.inference.model_scale import expression_scale, trained_total
from state_hf.model_cards.card import write_model_card
from state_hf.modeling.state_transition import StateTransitionForPerturbation, StateTransitionPreTrainedModel
from state_hf.training.baseline_fitting import fit_baselines
from state_hf.training.checkpoints import CHECKPOINTS, clear_training, start_of_training
from state_hf.training.effect_scale import EffectScale, attach_mixed_effects, fit_effect_scale, refit_mixed_effects
from state_hf.training.network_training import NetworkTraining
from state_hf.training.predicted_profiles import average_effects, predicted_profiles
from state_hf.training.profile_scores import score_models, score_profiles, scores_text
from state_hf.training.screen_means import ScreenMeans, screen_means
from state_hf.training.state_transition_arguments import StateTransitionTrainingArguments
from state_hf.training.state_transition_trainer import PredictionMetrics
from state_hf.training.transfer import replace_perturbations, set_perturbation_table

logger = logging.get_logger(__name__)

BASELINES_FOLDER, SCORES_FILE = "baselines", "scores.csv"


@dataclass(frozen=True, eq=False)
class TrainedModels:
    """What a training gives.

    Attributes:
        model: The trained model.
        baselines: The baselines by name.
        split: Which cells trained, validated and tested them.
        scores: One row a model, see `score_models`; None without held-out cells.
        scored_part: The part that was scored, "test" or "val".
        folder: Where everything was saved.
        effects: What the validation part says of the network's effects; None without one.
    """

    model: StateTransitionForPerturbation
    baselines: dict[str, StateTransitionPreTrainedModel]
    split: PerturbationSplit
    scores: pd.DataFrame | None
    scored_part: SplitPart | None
    folder: Path
    effects: EffectScale | None = None

    def __str__(self) -> str:
        told = str(self.split)
        if self.scores is None:
            told += "\n\nno cells are held out, so there are no scores"
        else:
            told += f"\n\nprediction of the {self.scored_part} part (± standard error over perturbations):\n"
            told += scores_text(self.scores)
        if self.effects is not None:
            told += f"\n\n{self.effects}"
        elif self.model.mixed_effects is not None:
            told += (
                "\n\nno cells validate the network, so predictions are those of the mixed model (mixed_effects): hold "
                "cell types or perturbations out for validation to see whether it adds anything"
            )
        by_features = getattr(self.model.mixed_effects, "by_features", None)
        if by_features is not None:
            seen = "something, and predict those that never trained"
            if not by_features.weights.any():
                seen = "nothing that can be seen, and those that never trained have the mean effect of all"
            told += f"\n\nfeatures say of perturbations that are left out {seen}"
        return told


@dataclass(frozen=True, eq=False)
class ScreenSets:
    """The sets of a screen that train and evaluate a model.

    Attributes:
        split: Which cells are of which part.
        feature_key: Where the model's features are.
        expression_slot: Where the expression is that the model decodes, if it does.
        set_size: Most cells of a set.
        control_matching: How controls are matched.
        seed: Seed of the draws.
    """

    split: PerturbationSplit
    feature_key: str
    expression_slot: str | None
    set_size: int
    control_matching: ControlMatching
    seed: int

    @property
    def screens(self) -> PerturbationScreens:
        """The labels."""
        return self.split.screens

    def dataset(self, part: SplitPart, *, of_expression: bool = False) -> PerturbationDataset | None:
        """The sets of one part; None if it has no perturbed cells. With `of_expression`, those of the decoded slot."""
        audit = self.split.audit()
        if audit.loc[audit["part"] == part, "perturbed_cells"].sum() == 0:
            return None
        return PerturbationDataset(
            self.screens,
            split=self.split,
            part=part,
            features=self.expression_slot if of_expression and self.expression_slot else feature_slot(self.feature_key),
            target_expression=None if of_expression else self.expression_slot,
            set_size=self.set_size,
            control_matching=self.control_matching,
            seed=self.seed,
        )

    @property
    def scored_slot(self) -> str:
        """The slot that predictions are compared in."""
        return self.expression_slot or feature_slot(self.feature_key)


def train(
    data: str | Path | anndata.AnnData | Sequence[str | Path] | None,
    output: str | Path,
    *,
    split: str | Path | SplitDefinition,
    training: StateTransitionTrainingArguments,
    config: dict[str, Any] | None = None,
    initial_model: str | Path | None = None,
    freeze: bool = False,
    lora_rank: int | None = None,
    perturbation_key: str = "perturbation",
    control: str | float = "non-targeting",
    cell_type_key: str | None = "cell_type",
    batch_key: str | None = None,
    distinct_case: bool = False,
    feature_key: str = "X",
    expression_slot: str | None = None,
    perturbation_features: str | Path | None = None,
    target_sum: float | None = None,
    set_size: int = 64,
    control_matching: ControlMatching = "random",
    split_controls: SplitControls = "shared",
    callbacks: Sequence[Any] = (),
    compute_prediction_metrics: PredictionMetrics | None = None,
    ensemble: int = 1,
    refit: bool = False,
    resume: bool = False,
    overwrite: bool = False,
) -> TrainedModels:
    """Train a State Transition model on a screen, fit the baselines, and score both on the held-out cells.

    Args:
        data: The .h5ad file(s) of one dataset; `None` where the split says where the files are.
        output: Folder for the model. It also receives the vocabulary, the split, `scores.csv`, the baselines (in
            `baselines/`) and the checkpoints (in `checkpoints/`).
        split: The field's TOML file, or a definition.
        training: Arguments of the Trainer; its `output_dir` is replaced by `output`/checkpoints.
        config: Fields of the `StateTransitionConfig` that differ from the defaults, such as `hidden_size`. A model that
            knows its perturbations by name and has no mixed model has offsets, see `fit_perturbation_offsets`; False in
            `use_perturbation_offsets` leaves them out.
        initial_model: A trained model to start from; its perturbations are replaced by the screen's.
        freeze: Whether the backbone and the output projection of `initial_model` stay as they are.
        lora_rank: Rank of low-rank changes (LoRA) that are trained instead of the backbone.
        perturbation_key: Column of obs with the perturbations.
        control: Label of control cells in that column.
        cell_type_key: Column of obs with the cell types or other contexts.
        batch_key: Column of obs with the batches.
        distinct_case: Whether labels that differ in upper and lower case only are different things. Otherwise they are
            refused, see `open_screens`.
        feature_key: Where the cells' features are: "X", a key of obsm, or a slot such as "layers/NAME".
        expression_slot: Slot of the expression to decode, where the features are an embedding.
        perturbation_features: File of perturbation features, see `read_perturbation_features`, that the network reads
            instead of learning a row for each perturbation; mixed model and baselines predict from them what never
            trained. They are kept in the folder, so that `predict` knows every perturbation of the file.
        target_sum: Counts per cell that the expression was normalised to. By default what the files say: as
            `preprocess` records it, or as their cells show by adding up to it. It is kept with the model.
        set_size: Most cells of a set.
        control_matching: "random" or "batch".
        split_controls: What becomes of control cells in the split, see `PerturbationSplit`.
        callbacks: Callbacks of the Trainer.
        compute_prediction_metrics: See `StateTransitionTrainer`.
        ensemble: Networks that are trained, each with a seed of its own from `training.seed` on. The effects that they
            predict are averaged, for models that have a mixed model, and their spread is part of the errors that the
            model states. The first one's weights are kept, and its cells are what `predict(..., emit="model")` writes.
        refit: Whether the mixed model and the baselines take the validation cells in when these have said what the
            network adds. The network keeps its weights, and the split that is saved has no validation part.
        resume: Whether to go on from the last complete checkpoint in `output`.
        overwrite: Whether to start anew in a folder that holds a training, which is lost.

    Raises:
        FileExistsError: The output holds a model or checkpoints, and neither `resume` nor `overwrite` is set.
        ValueError: Files, labels, split or options do not fit each other, values are not on the scale that the model
            reads, or files are normalised to different totals; the message says what to change.
    """
    folder = Path(output)
    checkpoint = start_of_training(folder, resume=resume, overwrite=overwrite)
    definition = split if isinstance(split, SplitDefinition) else read_split_toml(split)
    sources: Any = dataset_files(definition) if data is None else _named(definition, data)
    screens = open_screens(
        sources,
        perturbation_key=perturbation_key,
        control=control,
        cell_type_key=cell_type_key,
        batch_key=batch_key,
        distinct_case=distinct_case,
    )
    applied = PerturbationSplit(screens, definition, controls=split_controls, seed=training.seed)
    sets = ScreenSets(applied, feature_key, expression_slot, set_size, control_matching, training.seed)
    train_sets = sets.dataset("train")
    if train_sets is None:
        raise ValueError(applied.why_nothing_trains())
    for part in ("val", "test"):
        sets.dataset(part)  # refuses what could not be scored, before any work
    if refit and sets.dataset("val") is None:
        raise ValueError(Advised("there are no validation cells to refit with", "hold some out for validation"))
    set_seed(training.seed)
    vocabulary = _vocabulary(sets, train_sets)
    features, vectors = None, None
    if perturbation_features is not None:
        vectors = read_perturbation_features(perturbation_features)
        features = feature_table(vectors, vocabulary.perturbations, control=screens.control)

    def make() -> StateTransitionForPerturbation:
        return _model(sets, train_sets, vocabulary, config or {}, initial_model, features, distinct_case=distinct_case)

    model = make()
    mixed = _has_mixed_model(model.config)
    if ensemble < 1 or (ensemble > 1 and not mixed):
        raise ValueError(
            f"{ensemble} networks: an ensemble has at least one, and several only where they read and predict log1p "
            "expression, whose effects are averaged; train one (ensemble=1)"
        )
    model.config.target_sum = trained_total(
        model.config,
        screens,
        feature_slot(feature_key),
        expression_slot,
        given=target_sum if target_sum is not None else (config or {}).get("target_sum"),
        initial=None if initial_model is None else model.config.target_sum,
    )
    if expression_scale(model.config) != "embedding":
        for note in depth_notes(applied, sets.scored_slot):
            logger.warning(note)
        model.config.detected_genes = detected_genes(applied, sets.scored_slot)
    if overwrite:
        with training.main_process_first(desc="clearing the folder"):
            if training.process_index == 0:
                clear_training(folder)
    folder.mkdir(parents=True, exist_ok=True)
    applied.save(folder)
    vocabulary.save(folder)
    if vectors is not None and training.process_index == 0:
        save_perturbation_features(vectors, folder)
    training.output_dir = str(folder / CHECKPOINTS)
    networks = NetworkTraining(
        train_sets, sets.dataset("val"), training, freeze, lora_rank, callbacks, compute_prediction_metrics
    )
    model = networks.train(model, checkpoint)
    means = screen_means(screens, applied, slot=sets.scored_slot)
    effects = None
    if mixed:
        said = [average_effects(model, train_sets)]
        said += [average_effects(other, train_sets) for other in networks.others(make, ensemble, resume=resume)]
        attach_mixed_effects(model, means, said, features)
        if (held_out := sets.dataset("val")) is not None:
            seen = screen_means(screens, applied, slot=sets.scored_slot, part="val")
            effects = fit_effect_scale(model, held_out, seen)
    if refit:
        final = PerturbationSplit(screens, definition.without("val"), controls=split_controls, seed=training.seed)
        sets = replace(sets, split=final)
        means = screen_means(screens, final, slot=sets.scored_slot)
        if model.mixed_effects is not None:
            refit_mixed_effects(model, means, features)
    baselines = _baselines(model, sets, vocabulary, features, means)
    finished = _finish(model, baselines, sets, folder, effects, is_main=training.process_index == 0)
    screens.close()
    return finished


def _named(definition: SplitDefinition, data: Any) -> dict[str, Any]:
    """The data under the name of the one dataset of the split."""
    names = definition.used_datasets
    if len(names) != 1:
        raise ValueError(
            f"the split names the datasets {', '.join(map(repr, names))}: let it say where they are, and give no data"
        )
    return {names[0]: data}


def _vocabulary(sets: ScreenSets, dataset: PerturbationDataset) -> PerturbationVocabulary:
    screens = sets.screens
    if sets.expression_slot is not None:
        way = "take all genes, which have names (expression_slot='X')"
        for screen in screens.screens:
            check_named_genes(screen.cells.matrix(sets.expression_slot), way)
    genes = dataset.expression_names if sets.expression_slot else dataset.target_names
    repeated = [gene for gene, times in Counter(genes or ()).items() if times > 1]
    if repeated:
        raise ValueError(
            f"{sets.scored_slot} of {screens.screens[0].name} names {listed(repeated, limit=5)} more than once, and a "
            "model finds genes by their names; make them unique (adata.var_names_make_unique())"
        )
    return PerturbationVocabulary(
        screens.perturbations, screens.control, screens.batches, screens.cell_types, genes or ()
    )


def _has_mixed_model(config: StateTransitionConfig) -> bool:
    # A decoder's effects on expression are not read off its embedding.
    return config.gene_decoder is None and expression_scale(config) == "log1p"


def _model(
    sets: ScreenSets,
    dataset: PerturbationDataset,
    vocabulary: PerturbationVocabulary,
    config: dict[str, Any],
    initial_model: str | Path | None,
    features: np.ndarray | None,
    *,
    distinct_case: bool,
) -> StateTransitionForPerturbation:
    if initial_model is not None:
        if config:
            raise ValueError(f"the initial model has its sizes, so {', '.join(config)} cannot be chosen")
        with loading_from(initial_model):
            model, info = StateTransitionForPerturbation.from_pretrained(initial_model, output_loading_info=True)
        refuse_missing_weights(initial_model, info["missing_keys"])
        replace_perturbations(model, vocabulary, features, distinct_case=distinct_case)
        return model
    decoder: dict[str, Any] = {}
    if sets.expression_slot is not None:
        decoder = {"gene_decoder": "mlp", "gene_dim": len(dataset.expression_names or ()), "feature_scale": "embedding"}
    fields: dict[str, Any] = {
        "input_dim": dataset.input_size,
        "perturbation_dim": len(vocabulary.perturbations) if features is None else features.shape[1],
        "num_perturbations": len(vocabulary.perturbations),
        "perturbation_features": "ids" if features is None else "vectors",
        "num_batches": len(vocabulary.batches),
        "cell_set_length": sets.set_size,
        "feature_key": sets.feature_key,
        **decoder,
        **config,
    }
    made = StateTransitionConfig(**fields)
    if "use_perturbation_offsets" not in config:
        # A mixed model has what a network misses of an effect.
        made.use_perturbation_offsets = made.perturbation_features == "ids" and not _has_mixed_model(made)
    model = StateTransitionForPerturbation(made)
    model.vocabulary = vocabulary
    if features is not None:
        set_perturbation_table(model, vocabulary, features)
    return model


def _finish(
    model: StateTransitionForPerturbation,
    baselines: dict[str, StateTransitionPreTrainedModel],
    sets: ScreenSets,
    folder: Path,
    effects: EffectScale | None,
    *,
    is_main: bool,
) -> TrainedModels:
    """Score model and baselines, and save everything."""
    part: SplitPart | None = next((part for part in ("test", "val") if sets.dataset(part) is not None), None)
    scores = None
    if is_main:
        sets.split.save(folder)
        model.save_pretrained(folder)
        for name, baseline in baselines.items():
            baseline.save_pretrained(folder / BASELINES_FOLDER / name)
        if part is not None:
            scores = _score(model, baselines, sets, part)
            with written_whole(folder / SCORES_FILE) as temporary:
                scores.to_csv(temporary)
        # Once more, as it tells of the scores, too.
        write_model_card(folder)
    return TrainedModels(model, baselines, sets.split, scores, part, folder, effects)


def _baselines(
    model: StateTransitionForPerturbation,
    sets: ScreenSets,
    vocabulary: PerturbationVocabulary,
    features: np.ndarray | None,
    means: ScreenMeans,
) -> dict[str, StateTransitionPreTrainedModel]:
    fitted = fit_baselines(
        means,
        vocabulary,
        feature_key=sets.expression_slot or sets.feature_key,
        feature_scale="log1p" if sets.expression_slot else model.config.feature_scale or "log1p",
        target_sum=model.config.target_sum,
        cell_set_length=sets.set_size,
        perturbation_features=features,
    )
    held_out = {cell_type for part in ("val", "test") for cell_type in _cell_types(sets.split, part)}
    trained = _cell_types(sets.split, "train")
    if not held_out <= trained:
        # The mean of a context's own perturbations is for few-shot splits.
        del fitted["context_profile"]
    return {str(name): baseline for name, baseline in fitted.items()}


def _cell_types(split: PerturbationSplit, part: str) -> set[str]:
    audit = split.audit()
    return set(audit.loc[(audit["part"] == part) & (audit["perturbed_cells"] > 0), "cell_type"])


def _score(
    model: StateTransitionForPerturbation,
    baselines: dict[str, StateTransitionPreTrainedModel],
    sets: ScreenSets,
    part: SplitPart,
) -> pd.DataFrame:
    means = screen_means(sets.screens, sets.split, slot=sets.scored_slot, part=part)
    own, others = sets.dataset(part), sets.dataset(part, of_expression=True)
    if own is None or others is None:
        raise ValueError(f"the {part} part has no perturbed cells")
    tables = [score_models({"state_transition": model}, own, means), score_models(baselines, others, means)]
    if model.mixed_effects is not None:
        predicted = {group: profile.mean for group, profile in predicted_profiles(model, own, means).items()}
        tables.insert(0, score_profiles("prediction", predicted, means))
    return pd.concat(tables)


__all__ = ["TrainedModels", "train"]
