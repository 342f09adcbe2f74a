"""Predicted mean cells with the errors that a model states, as a table."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from state_hf.data.whole_files import written_whole
from state_hf.inference.cell_predictor import CellPredictor
from state_hf.inference.mean_profiles import MeanProfiles
from state_hf.inference.prediction_plan import PredictedGroup
from state_hf.modeling.layers.mixed_effects_tables import NORMAL_95

_LABELS, _NUMBERS = ("cell_type", "perturbation", "gene"), ("control", "mean", "standard_error", "lower", "upper")


def write_profiles(predictor: CellPredictor, groups: Sequence[PredictedGroup], path: Path) -> None:
    """Write the mean cells of groups, a row for every group and gene.

    Columns: `cell_type`, `perturbation`, `gene`; `control`, the mean control cell, and `mean`, the mean perturbed cell,
    on the scale of the prediction; `standard_error` of the true mean cell around it; and `lower` and `upper`, between
    which it is in 95 % of all cases (normal, and not below 0).

    Args:
        predictor: What predicts; its model states errors.
        groups: What is predicted.
        path: The parquet file to write; it is there when all is written.

    Raises:
        ValueError: The model states no errors.
    """
    profiles, genes = MeanProfiles(predictor), pa.array(predictor.genes)
    schema = pa.schema(
        [(name, pa.dictionary(pa.int32(), pa.string()) if name != "gene" else pa.string()) for name in _LABELS]
        + [(name, pa.float32()) for name in _NUMBERS]
    )
    with written_whole(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for group in groups:
            mean, error = profiles.of(group), np.sqrt(profiles.variance(group))
            reach = NORMAL_95 * error
            numbers = (profiles.level(group.cell_type), mean, error, np.maximum(mean - reach, 0), mean + reach)
            labels = [
                pa.array([label] * len(genes)).dictionary_encode() for label in (group.cell_type, group.perturbation)
            ]
            columns = [*labels, genes, *(pa.array(values.astype(np.float32)) for values in numbers)]
            writer.write_table(pa.table(columns, schema=schema))


__all__ = ["write_profiles"]
