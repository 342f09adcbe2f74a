"""Keep what an evaluation computed of the real side, so that the next one costs only the prediction's half."""

import hashlib
import json
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
from transformers.utils import logging

from state_hf.data.cells.cells import Cells
from state_hf.data.whole_files import written_whole
from state_hf.metrics.de_tables import DifferentialExpression
from state_hf.metrics.expression_rows import Rows, SparseRows
from state_hf.metrics.screen import CellBlock
from state_hf.metrics.summary import ScreenSummary

logger = logging.get_logger(__name__)

_FORMAT = 4
# What NumPy, zipfile and json raise over a file that is cut off or changed.
_DAMAGED = (
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    OSError,
    EOFError,
    RuntimeError,
    NotImplementedError,
    MemoryError,
    OverflowError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    SyntaxError,
    TokenError,
)


def content_key(cells: Cells, parts: Mapping[str, Any]) -> str:
    """SHA-256 of the cells' content and of everything else that the artefacts depend on.

    Args:
        cells: The cells; a file is hashed as it lies on the disk, which spares reading its matrix.
        parts: The rest: profile digest, column names, seeds.
    """
    text = json.dumps({**parts, "format": _FORMAT, "cells": cells.content_digest(parts["columns"])}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def load_summary(folder: Path, name: str) -> tuple[ScreenSummary, tuple[CellBlock, ...]] | None:
    """Read a real side's summary and control cells; None if they are not there, or not readable."""
    path = folder / f"{name}.npz"
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return _unpack(stored)
    except _DAMAGED as error:
        logger.warning("cannot read the cached evaluation artefact %s (%s); it is computed anew", path, error)
        return None


def store_summary(folder: Path, name: str, summary: ScreenSummary, control: tuple[CellBlock, ...]) -> None:
    """Write a real side's summary and control cells, under a temporary name first."""
    arrays = {f"summary_{key}": value for key, value in _arrays(summary).items() if key != "differential_expression"}
    arrays |= {f"de_{key}": value for key, value in _arrays(summary.differential_expression).items()}
    for number, block in enumerate(control):
        arrays[f"control_{number}_library"] = block.library
        arrays[f"control_{number}_codes"] = block.codes
        if isinstance(block.matrix, np.ndarray):
            arrays[f"control_{number}_dense"] = block.matrix
        else:
            for part in ("data", "indices", "indptr"):
                arrays[f"control_{number}_{part}"] = getattr(block.matrix, part)
    folder.mkdir(parents=True, exist_ok=True)
    with written_whole(folder / f"{name}.npz") as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def load_values(folder: Path, name: str) -> dict[str, float] | None:
    """Read metric values; None if they are not there, or not readable."""
    path = folder / f"{name}.json"
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return {metric: np.nan if value is None else float(value) for metric, value in values.items()}
    except _DAMAGED as error:
        logger.warning("cannot read the cached evaluation artefact %s (%s); it is computed anew", path, error)
        return None


def store_values(folder: Path, name: str, values: Mapping[str, float]) -> None:
    """Write metric values, under a temporary name first."""
    plain = {metric: None if np.isnan(value) else float(value) for metric, value in values.items()}
    folder.mkdir(parents=True, exist_ok=True)
    with written_whole(folder / f"{name}.json") as temporary:
        temporary.write_text(json.dumps(plain), encoding="utf-8")


def _arrays(values: Any) -> dict[str, Any]:
    found = {field.name: getattr(values, field.name) for field in fields(values)}
    # Labels are stored as fixed-width text: an object array would need pickle.
    return {
        key: value.astype(str) if isinstance(value, np.ndarray) and value.dtype == object else value
        for key, value in found.items()
        if value is not None
    }


def _unpack(stored: Mapping[str, np.ndarray]) -> tuple[ScreenSummary, tuple[CellBlock, ...]]:
    def read(prefix: str) -> dict[str, Any]:
        values = {key.removeprefix(prefix): stored[key] for key in stored if key.startswith(prefix)}
        return {key: value.astype(object) if value.dtype.kind == "U" else value for key, value in values.items()}

    de = read("de_")
    table = DifferentialExpression(
        **{**de, "reference_cells": int(de["reference_cells"]), "significance": float(de["significance"])}
    )
    summary = ScreenSummary(**read("summary_"), differential_expression=table)
    blocks: list[CellBlock] = []
    while f"control_{len(blocks)}_codes" in stored:
        part = read(f"control_{len(blocks)}_")
        matrix: Rows = (
            part["dense"]
            if "dense" in part
            else SparseRows(part["indptr"], part["indices"], part["data"], len(summary.genes))
        )
        blocks.append(CellBlock(matrix, part["codes"], part["library"]))
    return summary, tuple(blocks)
