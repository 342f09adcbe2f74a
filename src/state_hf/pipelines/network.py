"""Networks of genes from a model of any family, as edges, groups and a comparison with a known network."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from transformers import PreTrainedModel
from transformers.utils import logging

from state_hf.analysis.cell_choice import choose_cells
from state_hf.analysis.coexpression import expression_scores
from state_hf.analysis.gene_networks import (
    CosineScores,
    MatrixScores,
    PairScores,
    agreement,
    metagenes,
    network_edges,
)
from state_hf.analysis.gene_states import input_embeddings, mean_attentions, mean_states
from state_hf.analysis.perturbation_blocks import take_census
from state_hf.analysis.perturbation_list import names_of_genes
from state_hf.configuration.advice import Advised, refuse_existing
from state_hf.configuration.wording import counted, listed
from state_hf.data.cells.locations import as_location
from state_hf.data.whole_files import written_whole
from state_hf.inference.cell_encoder import BatchSize, CellEncoder
from state_hf.inference.embedding_task import DeclaredInputType, EmbeddingTask, inspect_source
from state_hf.inference.loading import model_digest
from state_hf.inference.processes import join_processes
from state_hf.tokenization.cell_tokenizer import CellTokenizer
from state_hf.tokenization.gene_names import GeneIndex

logger = logging.get_logger(__name__)

NetworkKind: TypeAlias = Literal["input", "contextual", "attention"]
NETWORK_KINDS: tuple[NetworkKind, ...] = get_args(NetworkKind)
_NEAREST = 10
_METADATA = b"state_hf"
# Of sums over pairs of genes.
_MAX_PAIR_BYTES = 2**32


@dataclass(frozen=True)
class GeneNetwork:
    """A network of genes.

    Attributes:
        edges: `source`, `target` and `weight`, the highest first.
        metagenes: `gene` and `metagene`, its group by Leiden; None where Leiden is not installed.
        agreement: With a reference network (see `analysis.gene_networks.agreement`); None without one.
        record: All that the network depends on, and what its weights are (`definition`).
    """

    edges: pd.DataFrame
    metagenes: pd.DataFrame | None
    agreement: pd.DataFrame | None
    record: dict[str, Any]


def network(
    model: str | Path | PreTrainedModel,
    output: str | Path,
    *,
    data: str | Path | None = None,
    kind: NetworkKind = "input",
    genes: Sequence[str] | None = None,
    max_genes: int = 2000,
    min_cells: int = 10,
    nearest: int | None = None,
    threshold: float | None = None,
    resolution: float = 1.0,
    where: Mapping[str, Sequence[str]] | None = None,
    max_cells: int | None = None,
    condition_key: str | None = None,
    condition: str | None = None,
    control: str | None = None,
    reference: str | Path | None = None,
    graphml: str | Path | None = None,
    gene_sets: str | Path | None = None,
    tokenizer: str | Path | CellTokenizer | None = None,
    layer: str | None = None,
    gene_column: str | None = None,
    input_type: DeclaredInputType = "counts",
    seed: int = 0,
    batch_size: BatchSize = "auto",
    dtype: str | None = None,
    device: str | torch.device | None = None,
    workers: int = 1,
    hidden_layer: int = -1,
    overwrite: bool = False,
    **encoding: Any,
) -> GeneNetwork:
    """Make a network of genes.

    Args:
        model: Folder or hub id, or a loaded model.
        output: The .parquet file of edges to write.
        data: Cells: an .h5ad file or .zarr store. All kinds but "input" need them.
        kind: "input" for cosines of the vectors by which the model looks genes up, "contextual" for cosines of genes'
            mean states over the cells that express them, "attention" for mean ranks of attentions between genes.
        genes: Names of the genes. Default: those that most of the cells express; without cells, all of the model's.
        max_genes: Of those that cells express, so many at most.
        min_cells: A gene, or of attentions a pair of genes, that fewer cells express has no score.
        nearest: Keep the pairs that are among so many highest of one of their genes. Default: 10.
        threshold: Instead, keep pairs from this score on.
        resolution: Of the groups: more for more of them.
        where: Cells to take: column of obs -> its values.
        max_cells: So many of these at most, drawn by `seed`.
        condition_key: Column of obs; the score is that in the cells of `condition` minus that in those of `control`.
        condition: Its value for the one side.
        control: Its value for the other.
        reference: A known network: .csv, .tsv or .parquet with the columns source and target.
        graphml: A .graphml file for the network, with the groups of genes.
        gene_sets: A .gmt file for the groups.
        tokenizer: A folder, a hub id or a loaded tokenizer. Default: the model's.
        layer: Layer to read, or "raw" for `raw.X`. Default: `X`.
        gene_column: Column of `var` with the gene names, or "index". Default: the one that matches best.
        input_type: "counts", "log1p", or "auto" to decide by a sample and say so.
        seed: Of the tokenizer's random choices, of `max_cells`, of the groups and of orders of equal scores.
        batch_size: Cells that go through the model at once.
        dtype: "float32", "bfloat16" or "float16". Default: the checkpoint's; on the CPU, float32.
        device: Where to compute. Default: CUDA, then MPS, then the CPU; not for a loaded model.
        workers: Threads that tokenize ahead of the model; here, cells are tokenized in between.
        hidden_layer: Of which layer states and attentions are: -1 the last. Other states than the last not for a model
            that says itself what a cell is.
        overwrite: Replace outputs that exist.
        **encoding: The tokenizer's own options. Default: as the model was trained.

    Raises:
        FileExistsError: An output exists.
        ImportError: `gene_sets` needs Leiden, which is not installed.
        ValueError: The options do not fit each other, the data or the model (the message says why).
    """
    path = Path(output)
    if isinstance(model, PreTrainedModel) and device is not None:
        raise ValueError("A loaded model stays where it is: move it with model.to(device), and leave device out.")
    _check_arguments(path, kind, data, nearest, threshold, condition_key, condition, control, graphml, gene_sets)
    for file in (path, graphml, gene_sets):
        if file is not None:
            refuse_existing(file, overwrite=overwrite)
    processes = join_processes(device)
    if processes.count > 1:
        raise ValueError("A network is made by one process: start it without a launcher.")
    encoder = CellEncoder.from_pretrained(
        model,
        tokenizer=tokenizer,
        dtype=dtype,
        device=processes.device,
        batch_size=batch_size,
        seed=seed,
        workers=workers,
        hidden_layer=hidden_layer,
        **encoding,
    )
    identity = {"name": encoder.model.config.name_or_path, "sha256": model_digest(encoder.model)}
    record: dict[str, Any] = {"kind": kind, "model": identity["name"], "model_sha256": identity["sha256"]}
    task, sides, names = None, [], dict(enumerate(encoder.tokenizer.gene_index.genes))
    if data is not None:
        reading: dict[str, Any] = {"layer": layer, "gene_column": gene_column, "input_type": input_type}
        task = inspect_source(as_location(data), encoder, model=identity, for_file=True, **reading)
        names = names_of_genes(task.genes, encoder.tokenizer.gene_index)
        conditions = [condition] if condition is None else [condition, control]
        for side in conditions:
            chosen = dict(where or {}) | ({} if side is None else {str(condition_key): [str(side)]})
            choice = choose_cells(data, task.num_cells, where=chosen, max_cells=max_cells, seed=seed)
            sides.append(choice.positions)
        record |= {**task.settings, "source": task.record["source"], "cells": [len(side) for side in sides]}
        logger.info(f"{task.name}: {' and '.join(counted(len(side), 'cell') for side in sides)}; {task.genes}")
    with encoder.evaluating():
        rows = _gene_rows(encoder, task, sides, genes, names, max_genes)
        _check_memory(len(rows), pairs=kind == "attention" or len(sides) > 1)
        scores = _scores(encoder, kind, task, sides, rows, [names[int(row)] for row in rows], min_cells)
        found = None
        if reference is not None:
            others = () if task is None else expression_scores(task, sides[0], rows, scores.genes)
            pairs = _reference_pairs(Path(reference), names, encoder.tokenizer.gene_index)
            found = agreement(scores, pairs, seed=seed, others=others)
    kept = _NEAREST if nearest is None and threshold is None else nearest
    edges = network_edges(scores, nearest=kept, threshold=threshold)
    if not len(edges):
        least = "at all" if threshold is None else f"from {threshold} on"
        raise ValueError(
            Advised(f"no pair of the {len(rows):,} genes has a score {least}", "ask for fewer cells (min_cells=1)")
        )
    record |= {
        "definition": scores.definition,
        "directed": scores.directed,
        "genes_scored": len(rows),
        "nearest": kept,
        "threshold": threshold,
        "min_cells": min_cells,
        "resolution": resolution,
        "seed": seed,
        "condition": {"key": condition_key, "condition": condition, "control": control},
    }
    groups = _groups(edges, resolution, seed, needed=gene_sets is not None)
    result = GeneNetwork(edges, groups, found, record)
    _write(result, path, graphml, gene_sets)
    files = ", ".join(str(file) for file in (path, graphml, gene_sets) if file is not None)
    logger.info(f"Wrote {files}: {counted(len(edges), 'edge')} between genes of {len(rows):,}")
    return result


def _check_arguments(
    path: Path,
    kind: str,
    data: Any,
    nearest: int | None,
    threshold: float | None,
    condition_key: str | None,
    condition: str | None,
    control: str | None,
    graphml: str | Path | None,
    gene_sets: str | Path | None,
) -> None:
    for file, suffix in ((path, ".parquet"), (graphml, ".graphml"), (gene_sets, ".gmt")):
        if file is not None and Path(file).suffix != suffix:
            raise ValueError(f"{file} has to end in {suffix}")
    if kind not in NETWORK_KINDS:
        raise ValueError(f"kind must be one of {', '.join(NETWORK_KINDS)}, but is {kind!r}")
    if kind != "input" and data is None:
        raise ValueError(f"A network of the kind {kind!r} is of cells: name the file with data.")
    if nearest is not None and threshold is not None:
        raise ValueError("nearest and threshold are two ways to choose pairs: give one of the two.")
    if nearest is not None and nearest < 1:
        raise ValueError(f"nearest must be a whole number from 1 on, but is {nearest}")
    given = [value is not None for value in (condition_key, condition, control)]
    if any(given) and (not all(given) or kind == "input"):
        raise ValueError(
            "condition_key, condition and control go together, for the kinds of network that are of cells: the score "
            "in the one minus that in the other."
        )


def _gene_rows(
    encoder: CellEncoder,
    task: EmbeddingTask | None,
    sides: list[np.ndarray],
    genes: Sequence[str] | None,
    names: Mapping[int, str],
    max_genes: int,
) -> np.ndarray:
    """Vocabulary rows of the genes of the network."""
    if genes is not None:
        rows_of = {name: row for row, name in names.items()}
        found = {name: [rows_of[name]] if name in rows_of else encoder.tokenizer.gene_index.candidates(name)
                 for name in genes}  # fmt: skip
        unknown = [name for name, rows in found.items() if len(rows) != 1]
        if unknown:
            raise ValueError(f"{listed(unknown)} {'is' if len(unknown) == 1 else 'are'} no gene of the model.")
        rows = np.unique([rows[0] for rows in found.values()])
    elif task is None:
        rows = np.arange(len(names))
    else:
        census = take_census(encoder, task, np.unique(np.concatenate(sides)))
        order = np.argsort(-census.expressing, kind="stable")[:max_genes]
        rows = np.sort(order[census.expressing[order] > 0])
    if len(rows) < 2:
        raise ValueError(
            f"A network needs two genes at least, and there {'is' if len(rows) == 1 else 'are'} {len(rows)}."
        )
    return rows


def _check_memory(genes: int, *, pairs: bool) -> None:
    size = 4 * 8 * genes**2
    if pairs and size > _MAX_PAIR_BYTES:
        raise ValueError(
            Advised(f"sums over the pairs of {genes:,} genes take {size / 1e9:.1f} GB", "name fewer genes (genes=...)",
                    "take the most expressed ones (max_genes=2000)")
        )  # fmt: skip


def _scores(
    encoder: CellEncoder,
    kind: NetworkKind,
    task: EmbeddingTask | None,
    sides: list[np.ndarray],
    rows: np.ndarray,
    names: list[str],
    min_cells: int,
) -> PairScores:
    if kind == "input" or task is None:
        return CosineScores(names, input_embeddings(encoder)[rows], "cosine of the genes' input embeddings")
    where = f"of layer {encoder.hidden_layer}, over the cells that express"
    bar = logging.tqdm(total=sum(map(len, sides)), unit=" cells", desc=Path(task.name).name)
    found: list[PairScores] = []
    with bar:
        for positions in sides:
            if kind == "contextual":
                states, number = mean_states(encoder, task, positions, bar.update)
                states[number < min_cells] = np.nan
                definition = f"cosine of the genes' mean states {where} them"
                found.append(CosineScores(names, states[rows], definition))
            else:
                matrix, number = mean_attentions(encoder, task, positions, rows, bar.update)
                matrix[number < min_cells] = np.nan
                definition = f"mean rank (rows, then columns) of the attention from target to source {where} both"
                found.append(MatrixScores(names, matrix, definition))
    if len(found) == 1:
        return found[0]
    every = np.arange(len(names))
    difference = found[0].rows(every) - found[1].rows(every)
    return MatrixScores(names, difference, f"{found[0].definition}; condition minus control", found[0].directed)


def _reference_pairs(path: Path, names: Mapping[int, str], index: GeneIndex) -> list[tuple[str, str]]:
    """The pairs of a known network, by the names of this one; those of other genes stay as they are."""
    if path.suffix == ".parquet":
        table = pd.read_parquet(path)
    elif path.suffix in (".csv", ".tsv"):
        table = pd.read_csv(path, sep="\t" if path.suffix == ".tsv" else ",", dtype=str, keep_default_na=False)
    else:
        raise ValueError(f"{path} has to end in .csv, .tsv or .parquet")
    missing = [column for column in ("source", "target") if column not in table]
    if missing:
        raise ValueError(f"{path} has no column {listed(missing)}: it has {listed([str(column) for column in table])}.")
    known = set(names.values())

    def name(gene: str) -> str:
        rows = [] if gene in known else index.candidates(gene)
        return names[rows[0]] if len(rows) == 1 else gene

    words = {gene: name(gene) for gene in {*table["source"].astype(str), *table["target"].astype(str)}}
    return [(words[a], words[b]) for a, b in zip(table["source"].astype(str), table["target"].astype(str), strict=True)]


def _groups(edges: pd.DataFrame, resolution: float, seed: int, *, needed: bool) -> pd.DataFrame | None:
    try:
        return metagenes(edges, resolution=resolution, seed=seed)
    except ImportError as error:
        if needed:
            raise
        logger.warning(f"No groups of genes: {error}")
        return None


def _write(result: GeneNetwork, path: Path, graphml: str | Path | None, gene_sets: str | Path | None) -> None:
    if gene_sets is not None and result.metagenes is not None:
        with written_whole(Path(gene_sets)) as temporary:
            lines = [
                "\t".join([f"metagene_{number}", str(result.record["definition"]), *members["gene"]])
                for number, members in result.metagenes.groupby("metagene")
            ]
            temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    if graphml is not None:
        with written_whole(Path(graphml)) as temporary:
            _write_graphml(result, temporary)
    agreement_rows = None if result.agreement is None else result.agreement.to_dict("records")
    content = json.dumps({"record": result.record, "agreement": agreement_rows}).encode()
    table = pa.Table.from_pandas(result.edges, preserve_index=False)
    with written_whole(path) as temporary:
        pq.write_table(table.replace_schema_metadata({**(table.schema.metadata or {}), _METADATA: content}), temporary)


def _write_graphml(result: GeneNetwork, path: Path) -> None:
    import networkx

    graph = networkx.DiGraph() if result.record["directed"] else networkx.Graph()
    graph.graph["definition"] = result.record["definition"]
    graph.add_weighted_edges_from(result.edges.itertuples(index=False, name=None))
    if result.metagenes is not None:
        groups = dict(zip(result.metagenes["gene"], result.metagenes["metagene"].tolist(), strict=True))
        networkx.set_node_attributes(graph, groups, "metagene")
    networkx.write_graphml(graph, path)


__all__ = ["NETWORK_KINDS", "GeneNetwork", "NetworkKind", "network"]
