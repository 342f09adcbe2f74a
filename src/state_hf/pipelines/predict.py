"""From control cells and perturbations to predicted cells."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import anndata
import torch
from transformers import PreTrainedModel
from transformers.utils import logging

from state_hf.configuration.advice import Advised, refuse_existing
from state_hf.configuration.labels import as_label
from state_hf.data.file_stamps import FileStamps
from state_hf.data.screens.perturbation_features import (
    features_of,
    kept_perturbation_features,
    read_perturbation_features,
)
from state_hf.data.screens.perturbation_screens import open_screens
from state_hf.inference.cell_predictor import (
    CellPredictor,
    Slots,
    feature_slot,
    load_perturbation_model,
)
from state_hf.inference.control_depths import control_depth_notes
from state_hf.inference.emitted_cells import Emission, EmittedCells, write_predictions
from state_hf.inference.loading import evaluation_mode
from state_hf.inference.mean_profiles import check_errors
from state_hf.inference.prediction_plan import Perturbations, labels_to_predict, plan_predictions
from state_hf.inference.profile_table import write_profiles
from state_hf.training.transfer import add_perturbations, reads_perturbation_features

logger = logging.get_logger(__name__)


def predict(
    data: anndata.AnnData | str | Path,
    model: str | Path | PreTrainedModel,
    perturbations: Perturbations = None,
    *,
    output: str | Path | None = None,
    profiles: str | Path | None = None,
    overwrite: bool = False,
    perturbation_key: str = "perturbation",
    control: str | float | None = None,
    cell_type_key: str | None = "cell_type",
    batch_key: str | None = None,
    distinct_case: bool = False,
    feature_key: str | None = None,
    perturbation_features: str | Path | None = None,
    cells: int | None = None,
    min_cells: int | None = None,
    max_cells: int | None = None,
    cell_types: Sequence[str] | None = None,
    on_unknown: Literal["error", "control"] = "error",
    expression_slot: str = "X",
    emit: Emission | None = None,
    depth: int | None = None,
    counts_slot: str | None = None,
    controls: Literal["real", "simulated", "none"] = "real",
    batch_size: int = 8,
    device: str | torch.device | None = None,
    seed: int = 0,
) -> anndata.AnnData | Path:
    """Predict perturbed cells from the control cells of a screen.

    For every (cell type, perturbation), sets of control cells of that cell type are drawn with the seed and go through
    the model. What a group's cells are depends on the seed, the cell type and the perturbation alone, and not on what
    else is predicted. Cells are written as they are made; memory holds a few sets.

    Args:
        data: An .h5ad file or AnnData with the control cells. Perturbed cells in it are not read; they say what to
            predict where nothing else does.
        model: A folder, a hub id, or a loaded model: a State Transition model or a baseline.
        perturbations: What to predict: `None` for the groups of perturbed cells in the data, with their numbers of
            cells; "all" for every perturbation that the model knows; names; or a table (frame, .csv or .tsv) with the
            columns `perturbation`, `cells` and, if a row is for one cell type only, `cell_type`. A perturbation is
            found however it is spelt ("B+A" where the model knows "A+B"), and written as it is asked for. A combination
            that the model has no row for is the sum of its members.
        output: The .h5ad file to write; or a .npy file of the matrix, with the labels beside it as .obs.csv. By default
            the cells are returned.
        profiles: A .parquet file to write the predicted mean cells to, with their errors, see `write_profiles`.
        overwrite: Whether outputs that exist are replaced.
        perturbation_key: Column of obs with the perturbations.
        control: Label of control cells. By default the model's.
        cell_type_key: Column of obs with the cell types; `None` takes all cells for one.
        batch_key: Column of obs with the batches, for a model that reads them.
        distinct_case: Whether labels that differ in upper and lower case only are different things. Those that the
            model knows are.
        feature_key: Where the model's features are: "X", a key of obsm, or a slot such as "layers/NAME". By default
            where they were in training.
        perturbation_features: File of features of further perturbations, see `read_perturbation_features`, for a model
            that reads features: it then knows these perturbations too. By default those that the model was trained
            with, of all perturbations that its file named.
        cells: Cells of every perturbation, where the data or the table do not say.
        min_cells: A group with fewer cells is predicted with so many.
        max_cells: A group with more cells is predicted with so many.
        cell_types: Cell types to predict. By default all of the data.
        on_unknown: "error", or "control" to predict an unknown perturbation as the control, which is logged.
        expression_slot: Slot from which the real control cells are written where the model reads an embedding and
            predicts expression.
        emit: By default "tilted" for a model that has a mixed model of its screen, as those that `train` makes, and
            "model" for others. "model" for the model's own cells. "tilted" for control cells whose values are
            reweighted, gene by gene, until they have the mean that is predicted: profiles without the noise of drawing
            control cells, and cells that tests tell from control cells where an effect is predicted, and only there;
            see `MeanProfiles` and `ControlMarginals`. "counts" for whole numbers: tilted cells, brought to them by
            `round_counts`, where these are the default, and elsewhere one multinomial draw a cell of the model's, see
            `draw_counts`.
        depth: Total counts of every cell with `emit="counts"`. By default that of the control cell it comes from.
        counts_slot: Slot of the raw counts ("X", "layers/counts"), from which control cells and their depths are taken
            with `emit="counts"`.
        controls: Which control cells are written among the predicted ones, as scorers need them: the "real" ones,
            as many as "simulated" by the model for the control perturbation, or "none". Which ones a score uses changes
            it several-fold; predicted cells are the same in all cases.
        batch_size: Sets that go through the model together.
        device: Where the model computes. By default a GPU if there is one.
        seed: Seed of the draws.

    Returns:
        The predicted cells, or the path of the output: X in the model's order of genes, obs with the perturbation and
        the cell type under the names of the input's columns, and in uns["prediction"] how they were made, see
        `PredictionRecord`. A model that decodes an embedding gives the embedding too, in obsm under its feature key.

    Raises:
        FileExistsError: The output exists, and is not to be replaced.
        ValueError: A perturbation, cell type or slot is unknown, the control label is missing, labels look alike (see
            `open_screens`), the data do not fit the model, or they change while they are read.
    """
    target = None if output is None else Path(output)
    if target is not None:
        refuse_existing(target, overwrite=overwrite)
    table = None if profiles is None else Path(profiles)
    if table is not None:
        refuse_existing(table, overwrite=overwrite)
        if table.suffix != ".parquet":
            raise ValueError(f"the table of profiles must end in .parquet, and is {table}")
    if emit == "counts" and counts_slot is None and (depth is None or controls == "real"):
        raise ValueError(
            Advised(
                "emit='counts' takes control cells and depths from raw counts",
                "name their slot (counts_slot='layers/counts')",
                "give a depth and write no real control cells (depth=..., controls='none')",
            )
        )
    loaded = load_perturbation_model(model, device=device)
    if table is not None:
        check_errors(loaded)
    if emit is None:
        emit = "tilted" if loaded.mixed_effects is not None else "model"
    if perturbation_features is not None:
        add_perturbations(loaded, read_perturbation_features(perturbation_features))
    control = loaded.vocabulary.control_perturbation if control is None else as_label(control, "control")
    if control is None:
        raise ValueError(Advised("the model does not name its control perturbation", "give its label (control=...)"))
    if batch_key is None and getattr(loaded.config, "use_batch_encoder", False):
        raise ValueError(Advised("the model reads the batch of each cell", "name its column in obs (batch_key=...)"))
    stamps = FileStamps(data)
    with (
        open_screens(
            data,
            perturbation_key=perturbation_key,
            control=control,
            cell_type_key=cell_type_key,
            batch_key=batch_key,
            vocabulary=loaded.vocabulary,
            distinct_case=distinct_case,
        ) as screens,
        evaluation_mode(loaded),
    ):
        if perturbation_features is None and isinstance(model, str | Path) and reads_perturbation_features(loaded):
            named = labels_to_predict(screens, perturbations)
            add_perturbations(loaded, features_of(kept_perturbation_features(model), named, control=control))
        groups = plan_predictions(
            screens,
            loaded.vocabulary,
            perturbations,
            cells=cells,
            min_cells=min_cells,
            max_cells=max_cells,
            cell_types=cell_types,
            on_unknown=on_unknown,
            distinct_case=distinct_case,
        )
        keys = (perturbation_key, cell_type_key, batch_key)
        slots = Slots(
            feature_slot(feature_key or loaded.config.feature_key), expression=expression_slot, counts=counts_slot
        )
        predictor = CellPredictor(loaded, screens, slots, batch_size=batch_size, seed=seed)
        emitted = EmittedCells(predictor, keys, emit=emit, depth=depth)
        # Other families do not say how deep the cells were that they learnt from.
        if (depths := getattr(loaded.config, "detected_genes", None)) is not None:
            wanted = dict.fromkeys(group.cell_type for group in groups)
            for note in control_depth_notes(predictor.expression, list(wanted), tuple(depths)):
                logger.warning(note)
        if table is not None:
            write_profiles(predictor, groups, table)
        if target is not None:
            write_predictions(emitted, groups, target, controls=controls, stamps=stamps)
            return target
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder, "predicted.h5ad")
            write_predictions(emitted, groups, target, controls=controls, stamps=stamps)
            return anndata.read_h5ad(target)


__all__ = ["predict"]
