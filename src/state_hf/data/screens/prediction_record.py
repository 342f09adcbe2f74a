"""What a file of predicted cells says of how they were made: what `predict` writes, and `evaluate` reads back."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled
from huggingface_hub.utils import HfHubHTTPError, httpx

from state_hf.configuration.labels import as_label
from state_hf.configuration.wording import counted
from state_hf.data.cells.open_cells import open_cells
from state_hf.data.screens.split_parts import SPLIT_FILE, split_file
from state_hf.metrics.labelled_cells import LabelledCells

PERTURBATION_KEY, CONTROL, CELL_TYPE_KEY = "perturbation", "non-targeting", "cell_type"
"""What columns and control are called where nobody says."""

RECORD_KEY = "prediction"
"""Where the record is in `uns`."""

Group = tuple[str, str]
"""(cell type, perturbation)"""


@dataclass(frozen=True, kw_only=True)
class PredictionRecord:
    """How predicted cells were made, and what is needed to score them.

    It is `uns["prediction"]` of the file. Texts and numbers stand there as they are; what does not apply is "", and a
    `target_sum` of -1. The groups are three lists of one length: `cell_type`, `perturbation` and `part` of `groups`.

    Attributes:
        perturbation_key: Column of obs with the perturbations.
        control: Label of control cells.
        controls: Which control cells the file has: "real" ones, "simulated" by the model, or "none".
        cell_type_key: Column of obs with the cell types; "" where all cells were taken for one.
        batch_key: Column of obs with the batches; "" without.
        scale: "log1p", "counts" or "embedding".
        target_sum: Counts per cell that the values are normalised to; -1 for counts, and where the model does not know.
        feature_key: Where the model's features were in its input. The genes of the file are the model's.
        num_genes: How many those are.
        emit: "model", "tilted" or "counts".
        counts_drawn: How counts were drawn.
        depth: Total counts of a cell that were drawn.
        model: Folder or hub id of the model.
        model_type: Its family.
        model_digest: SHA-256 of its configuration and weights.
        cell_set_length: Most control cells of a set.
        seed: Seed of the draws.
        split: File of the split that the model was trained with; "" where it is not known.
        groups: (cell type, perturbation) of what is predicted -> the split's part that it is of: "train", "val" or
            "test"; "" where the split does not say.
        state_hf_version: What wrote the file.
    """

    perturbation_key: str
    control: str
    controls: str
    cell_type_key: str
    batch_key: str
    scale: str
    target_sum: float
    feature_key: str
    num_genes: int
    emit: str
    counts_drawn: str
    depth: str
    model: str
    model_type: str
    model_digest: str
    cell_set_length: int
    seed: int
    split: str
    groups: Mapping[Group, str]
    state_hf_version: str

    def to_uns(self) -> dict[str, Any]:
        """The record as `uns` takes it."""
        content = asdict(self)
        columns = list(zip(*((*group, part) for group, part in self.groups.items()), strict=True)) or [()] * 3
        names = ("cell_type", "perturbation", "part")
        content["groups"] = {name: np.array(column, dtype=object) for name, column in zip(names, columns, strict=True)}
        return content

    @property
    def held_out(self) -> tuple[str, list[Group]] | None:
        """The part that was held out, "test" or, without one, "val", and its groups; None if there are none."""
        for part in ("test", "val"):
            groups = [group for group, of in self.groups.items() if of == part]
            if groups:
                return part, groups
        return None


def read_prediction_record(uns: Any, place: str) -> PredictionRecord | None:
    """The record of a file.

    Args:
        uns: What the file has under `RECORD_KEY` in `uns`; None if it has nothing.
        place: What messages call the file.

    Returns:
        The record; None where there is none, or one of a version that wrote less.

    Raises:
        ValueError: The record is damaged.
    """
    if not isinstance(uns, Mapping) or not {field.name for field in fields(PredictionRecord)} <= set(uns):
        return None
    types = get_type_hints(PredictionRecord)
    try:
        groups = [list(map(str, uns["groups"][name])) for name in ("cell_type", "perturbation", "part")]
        content = {
            name: types[name](uns[name])
            for name in (field.name for field in fields(PredictionRecord))
            if name != "groups"
        }
        *pairs, parts = groups
        return PredictionRecord(**content, groups=dict(zip(zip(*pairs, strict=True), parts, strict=True)))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"uns[{RECORD_KEY!r}] of {place} is damaged: {error}") from error


def record_of(cells: LabelledCells) -> PredictionRecord | None:
    """`read_prediction_record` of opened cells."""
    return read_prediction_record(cells.uns.get(RECORD_KEY), getattr(cells, "name", "the AnnData object"))


def recorded_labels(cells: LabelledCells, perturbation_key: str | None, control: str | float | None) -> tuple[str, str]:
    """Column of the perturbations and label of the control: what is given, else the recorded, else the defaults."""
    record = record_of(cells)
    recorded = CONTROL if record is None else record.control
    return (
        perturbation_key or (PERTURBATION_KEY if record is None else record.perturbation_key),
        recorded if control is None else as_label(control, "control"),
    )


def describe_predictions(path: str | Path) -> str:
    """What a file of predicted cells holds, in a line: groups, cells, genes and scale."""
    path = Path(path)
    if path.suffix == ".npy":
        cells, genes = np.load(path, mmap_mode="r").shape
        return f"{path}: {cells:,} cells x {genes:,} genes, their labels in {path.with_suffix('.obs.csv').name}"
    with open_cells(path) as opened:
        matrix = opened.expression()
        record, cells, genes = record_of(matrix), matrix.n_obs, matrix.n_vars
    if record is None:
        return f"{path}: {cells:,} cells x {genes:,} genes"
    groups = len({perturbation for _, perturbation in record.groups})
    cell_types = len({cell_type for cell_type, _ in record.groups})
    where = f" in {counted(cell_types, 'cell type')}" if record.cell_type_key else ""
    scale = record.scale if record.target_sum < 0 else f"{record.scale}, normalised to {record.target_sum:,g} counts"
    controls = "without control cells" if record.controls == "none" else f"with {record.controls} control cells"
    return f"{path}: {counted(groups, 'perturbation')}{where}, {cells:,} cells ({controls}) x {genes:,} genes, {scale}"


def split_of_model(model: str) -> Path | None:
    """The split that a model was trained with, which is in its folder or repository; None if there is none."""
    if Path(model).exists() or not model:
        try:
            return split_file(model) if model else None
        except FileNotFoundError:
            return None
    cached = try_to_load_from_cache(model, SPLIT_FILE)
    try:
        if cached is None:
            # Asked for once; a download would try again and again where the Hub is out of reach.
            get_hf_file_metadata(hf_hub_url(model, SPLIT_FILE))
            cached = hf_hub_download(model, SPLIT_FILE)
    except (HfHubHTTPError, OfflineModeIsEnabled, HFValidationError, httpx.TransportError):
        return None
    return Path(cached) if isinstance(cached, str) else None


__all__ = [
    "CELL_TYPE_KEY",
    "CONTROL",
    "PERTURBATION_KEY",
    "RECORD_KEY",
    "Group",
    "PredictionRecord",
    "describe_predictions",
    "read_prediction_record",
    "record_of",
    "recorded_labels",
    "split_of_model",
]
