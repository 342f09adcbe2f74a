"""What is found out about a data set before its cells are embedded, and where their embedding goes."""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import anndata
import numpy as np

from state_hf._version import __version__
from state_hf.data.cells.embedding_files import FORMATS, output_format
from state_hf.data.cells.locations import as_location, stem_of
from state_hf.data.cells.open_cells import holds_cells, open_cells
from state_hf.data.cells.refused_inputs import refusal
from state_hf.data.cells.stored_matrix import CellMatrix
from state_hf.inference.cell_encoder import CellEncoder, Part
from state_hf.tokenization.gene_names import GeneReport, resolve_genes
from state_hf.tokenization.input_scale import SCALE_SAMPLE, InputType, check_input_type

AnyPath: TypeAlias = str | Path
Source: TypeAlias = anndata.AnnData | Path | str
DeclaredInputType: TypeAlias = Literal["counts", "log1p", "auto"]

# A block is what a killed run loses (minutes of a CPU's work, seconds of an accelerator's) and what memory holds. There
# are several, so that one is tokenized while another is embedded, unless they would become smaller than a good batch.
_CPU_BLOCK_FLOPS = 3e14
_ACCELERATOR_BLOCK_FLOPS = 3e15
_BLOCK_BYTES = 2**26
_BLOCKS_PER_PROCESS = 16
_MIN_BLOCK_CELLS = 128


@dataclass(frozen=True)
class EmbeddingTask:
    """A data set that can be embedded.

    Attributes:
        source: The AnnData object or the path.
        name: What messages call it.
        layer: The layer that is read, None for `X`.
        num_cells: Number of cells.
        block_cells: Cells that are read, tokenized and stored together.
        genes: How its genes map to the vocabulary.
        input_type: "counts" or "log1p".
        settings: All that the embedding depends on, by name: a run that has the same can be continued.
        record: The provenance of the embedding, stored with it: the settings and more.
        slot_names: The names that its `obsm` and `uns` already have.
    """

    source: Source
    name: str
    layer: str | None
    num_cells: int
    block_cells: int
    genes: GeneReport
    input_type: InputType
    settings: dict[str, Any]
    record: dict[str, Any]
    slot_names: set[str]


def inspect_source(
    source: Source,
    encoder: CellEncoder,
    *,
    layer: str | None,
    gene_column: str | None,
    input_type: DeclaredInputType,
    model: dict[str, Any],
    for_file: bool,
    processes: int = 1,
) -> EmbeddingTask:
    """Look at a data set's genes and at a sample of its values, to refuse it before hours go into the ones ahead of it.

    Args:
        source: The AnnData object or the path.
        encoder: What will embed it.
        layer: Layer to read, or "raw". None for `X`.
        gene_column: Column of `var` with the gene names, or "index". None for the one that matches best.
        input_type: "counts", "log1p" or "auto".
        model: `name` and `sha256` of the model.
        for_file: Whether the embedding goes to a file, so that the run may have to be continued.
        processes: How many share its cells.

    Raises:
        ValueError: The data set cannot be read, too few of its genes are known, or its values contradict `input_type`.
    """
    with open_cells(source).expression(layer) as cells:
        try:
            genes = resolve_genes(cells.var, encoder.tokenizer, gene_column=gene_column)
            found_type = check_input_type(
                cells.sample(SCALE_SAMPLE),
                input_type,
                instead="choose the layer with counts or log1p values (layer=...)",
            )
        except ValueError as error:
            raise ValueError(f"{cells.place}: {error}") from error
        settings = {
            "model_sha256": model["sha256"],
            "state_hf_version": __version__,
            "matrix": cells.slot,
            "genes_sha256": hashlib.sha256(genes.columns.tobytes()).hexdigest(),
            "input_type": found_type,
            **encoder.encoding,
            "hidden_layer": encoder.hidden_layer,
            "seed": encoder.seed,
            "dtype": str(encoder.model.dtype).removeprefix("torch."),
        }
        if for_file:
            settings["input"] = cells.cells.fingerprint()
        return EmbeddingTask(
            source=source,
            name=cells.name,
            layer=layer,
            num_cells=cells.num_cells,
            block_cells=_block_cells(cells, encoder, processes),
            genes=genes,
            input_type=found_type,
            settings=settings,
            record={
                **settings,
                "model": model["name"],
                "source": Path(cells.name).name,
                "cells": cells.num_cells,
                "dimensions": encoder.embedding_dim,
                "genes": genes.to_dict(),
            },
            slot_names={*cells.cells.names_in("obsm"), *cells.cells.names_in("uns")},
        )


def _block_cells(cells: CellMatrix, encoder: CellEncoder, processes: int) -> int:
    length = encoder.length
    flops_per_cell = 2 * length * encoder.model.num_parameters(exclude_embeddings=True)
    on_cpu = encoder.model.device.type == "cpu"
    by_work = (_CPU_BLOCK_FLOPS if on_cpu else _ACCELERATOR_BLOCK_FLOPS) / flops_per_cell
    # A token is an id and a mask of eight bytes each, and a scalar of four.
    by_memory = _BLOCK_BYTES / (cells.bytes_per_cell + 20 * length + 4 * encoder.embedding_dim)
    by_number = max(cells.num_cells / (_BLOCKS_PER_PROCESS * processes), _MIN_BLOCK_CELLS)
    return math.ceil(min(by_work, by_memory, by_number, cells.num_cells / processes))


def embed_in_memory(
    task: EmbeddingTask,
    encoder: CellEncoder,
    progress: Callable[[int], Any] = lambda cells: None,
    *,
    part: Part = "embedding",
) -> np.ndarray:
    """The embedding of all cells of a data set as one array, (cells, dimensions) float32.

    Args:
        task: The data set.
        encoder: What embeds it.
        progress: Called with a number of cells when they have gone through the model.
        part: What is kept of each cell.
    """
    embedding = np.empty((0, 0), dtype=np.float32)
    starts = range(0, task.num_cells, task.block_cells)
    ranges = [(start, min(start + task.block_cells, task.num_cells)) for start in starts]
    with open_cells(task.source).expression(task.layer) as cells, encoder.evaluating():
        for start, rows in encoder.embed(
            cells, task.genes, input_type=task.input_type, ranges=ranges, part=part, progress=progress
        ):
            if not embedding.size:
                embedding = np.empty((task.num_cells, rows.shape[1]), dtype=np.float32)
            embedding[start : start + len(rows)] = rows
    return embedding


def embed_whole(
    source: Source | str,
    encoder: CellEncoder,
    *,
    layer: str | None = None,
    gene_column: str | None = None,
    input_type: DeclaredInputType = "auto",
    part: Part = "embedding",
    progress: Callable[[int], Any] = lambda cells: None,
) -> np.ndarray:
    """The embedding of all cells of a data set as one array, (cells, dimensions) float32.

    Args:
        source: The AnnData object or the path.
        encoder: What embeds it.
        layer: Layer to read, or "raw". None for `X`.
        gene_column: Column of `var` with the gene names, or "index". None for the one that matches best.
        input_type: "counts", "log1p" or "auto".
        part: What is kept of each cell.
        progress: Called with a number of cells when they have gone through the model.

    Raises:
        ValueError: See `inspect_source`.
    """
    task = inspect_source(
        source if isinstance(source, anndata.AnnData) else as_location(source),
        encoder,
        layer=layer,
        gene_column=gene_column,
        input_type=input_type,
        model={"name": encoder.model.config.name_or_path, "sha256": ""},
        for_file=False,
    )
    return embed_in_memory(task, encoder, progress, part=part)


def is_several(data: anndata.AnnData | AnyPath | Sequence[AnyPath]) -> bool:
    """Whether the user names several files: a list, or a folder that is not itself a data set."""
    if isinstance(data, str | Path):
        return Path(data).is_dir() and Path(data).suffix != ".zarr" and not holds_cells(Path(data))
    return not isinstance(data, anndata.AnnData)


def list_sources(data: anndata.AnnData | AnyPath | Sequence[AnyPath]) -> list[Source]:
    """The data sets that the user names.

    Raises:
        ValueError: There are none.
    """
    if isinstance(data, anndata.AnnData):
        return [data]
    if not isinstance(data, str | Path):
        if not data:
            raise ValueError("There is nothing to embed: the list of files is empty.")
        return [as_location(path) for path in data]
    if not is_several(data):
        return [as_location(data)]
    files: list[Source] = [*sorted(Path(data).glob("*.h5ad"))]
    if not files:
        raise ValueError(refusal(Path(data)))
    return files


def name_outputs(sources: Sequence[Source], output: AnyPath, *, several: bool, format: str | None) -> list[Path]:
    """The output of every data set.

    Raises:
        ValueError: The format is unknown, an output is an input, or two inputs have one output.
    """
    if several:
        if Path(output).suffix.removeprefix(".") in FORMATS:
            raise ValueError(f"Several inputs need a folder as their output, not {output}.")
        if format not in (None, *FORMATS):
            raise ValueError(f"format must be one of {', '.join(FORMATS)}, but is {format!r}.")
        outputs = [Path(output, f"{stem_of(source)}.{format or 'h5ad'}") for source in sources]
    elif format is not None:
        raise ValueError(f"format is for an output folder: the suffix of {output} says the format of a file.")
    else:
        outputs = [Path(output)]
    inputs = [source.filename if isinstance(source, anndata.AnnData) else source for source in sources]
    read = {Path(path).resolve() for path in inputs if path is not None}
    for path in outputs:
        output_format(path)
        if path.resolve() in read:
            raise ValueError(f"The output {path} is an input, which is never changed: choose another name.")
        if outputs.count(path) > 1:
            raise ValueError(f"Two inputs would be written to {path}: embed them apart.")
    return outputs
