"""What a model says of genes and of pairs of genes, averaged over cells: input embeddings, states and attentions."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from state_hf.data.cells.open_cells import open_cells
from state_hf.inference.cell_encoder import CellEncoder, trimmed
from state_hf.inference.chosen_cells import encode_chosen
from state_hf.inference.embedding_task import EmbeddingTask

_CELLS_AT_ONCE = 64
# Attentions of all layers and heads hold so many numbers at once.
_ATTENTIONS_AT_ONCE = 2**27


def input_embeddings(encoder: CellEncoder) -> np.ndarray:
    """(genes, width) float32: the vectors by which the model looks genes up, by vocabulary row.

    Raises:
        ValueError: The model has none, or its tokenizer writes a gene in several tokens.
    """
    tokenizer, model = encoder.tokenizer, encoder.model
    table: Any = model.get_input_embeddings()
    try:
        ids = torch.from_numpy(tokenizer.gene_tokens)
    except NotImplementedError as error:
        raise ValueError(
            f"{type(tokenizer).__name__} writes a gene in several tokens: no one vector is its."
        ) from error
    if not isinstance(table, torch.nn.Embedding) or table.num_embeddings <= int(ids.max()):
        raise ValueError(f"{type(model).__name__} looks genes up in no table of vectors.")
    ids = ids.to(table.weight.device)
    with torch.inference_mode():
        return table(ids).float().cpu().numpy()


def encoded_parts(
    encoder: CellEncoder, task: EmbeddingTask, positions: np.ndarray
) -> Iterator[dict[str, torch.Tensor]]:
    """Encodings of some cells of a data set, a few at a time."""
    with open_cells(task.source).expression(task.layer) as cells:
        for start in range(0, len(positions), _CELLS_AT_ONCE):
            part = positions[start : start + _CELLS_AT_ONCE]
            yield encode_chosen(encoder, cells, task.genes, part, input_type=task.input_type)


def mean_states(
    encoder: CellEncoder,
    task: EmbeddingTask,
    positions: np.ndarray,
    progress: Callable[[int], Any] = lambda cells: None,
) -> tuple[np.ndarray, np.ndarray]:
    """The mean state of every gene over the cells that express it.

    Returns:
        (genes, width) float64, NaN for a gene that none expresses, and (genes,) how many do.
    """
    total: Any = None
    number = np.zeros(len(encoder.tokenizer.gene_index.genes))
    for encoding in encoded_parts(encoder, task, positions):
        expressed = encoder.tokenizer.expressed_tokens(encoding)
        lengths = encoding["attention_mask"].sum(dim=1).numpy()

        def states(batch: np.ndarray, encoding: Any = encoding) -> torch.Tensor:
            found = encoder.states(trimmed(encoding, batch), output_genes=True).genes
            if found is None:
                raise ValueError(f"{type(encoder.model).__name__} gives no states of genes.")
            return found.double().cpu()

        for batch, found in encoder.in_batches(lengths, states):
            cells = torch.from_numpy(batch)
            known = expressed[cells, : found.shape[1]]
            rows = encoder.tokenizer.gene_rows(encoding)[cells, : found.shape[1]][known].numpy()
            if total is None:
                total = np.zeros((len(number), found.shape[2]))
            np.add.at(total, rows, found[known].numpy())
            number += np.bincount(rows, minlength=len(number))
            progress(len(batch))
    with np.errstate(invalid="ignore", divide="ignore"):
        return total / number[:, None], number


def mean_attentions(
    encoder: CellEncoder,
    task: EmbeddingTask,
    positions: np.ndarray,
    genes: np.ndarray,
    progress: Callable[[int], Any] = lambda cells: None,
) -> tuple[np.ndarray, np.ndarray]:
    """Mean ranks of attentions between genes, over the cells that express both.

    In each cell and head of the layer, with the cell's M expressed genes: the ranks of the attentions that a gene gives
    (0 to M - 1, ties shared), over M; then the ranks of these among all that a gene receives, over M; then the mean
    over heads. The scores of scGPT's attention networks, whose ranks of raw products are those of the probabilities.

    Args:
        encoder: Its `hidden_layer` says of which layer, -1 the last.
        task: The data set.
        positions: (cells,) of its cells.
        genes: Vocabulary rows of the genes between which means are kept.
        progress: Called with a number of cells when they are done.

    Returns:
        (genes, genes): [a, b] what b gives to a, NaN where no cell has both; and how many cells have them.

    Raises:
        ValueError: The model gives no attentions between all tokens.
    """
    column = np.full(len(encoder.tokenizer.gene_index.genes), -1)
    column[genes] = np.arange(len(genes))
    total, number = np.zeros((2, len(genes), len(genes)))
    config = encoder.model.config
    with _eager(encoder):
        for encoding in encoded_parts(encoder, task, positions):
            rows, expressed = encoder.tokenizer.gene_rows(encoding), encoder.tokenizer.expressed_tokens(encoding)
            length = encoding["input_ids"].shape[1]
            of_cell = config.num_hidden_layers * config.num_attention_heads * length**2
            size = max(1, _ATTENTIONS_AT_ONCE // of_cell)
            for start in range(0, len(rows), size):
                cells = np.arange(start, min(start + size, len(rows)))
                found = _attentions(encoder, trimmed(encoding, cells, keep_mask=True))
                for cell, attention in zip(cells, found, strict=True):
                    places = torch.nonzero(expressed[cell])[:, 0]
                    own = column[rows[cell, places].numpy()]
                    kept = np.flatnonzero(own >= 0)
                    chosen = places.to(attention.device)
                    ranks = ranked_attention(attention[:, chosen][:, :, chosen]).cpu().numpy()
                    pair = np.ix_(own[kept], own[kept])
                    total[pair] += ranks.T[np.ix_(kept, kept)]
                    number[pair] += 1
                progress(len(cells))
    with np.errstate(invalid="ignore", divide="ignore"):
        return total / number, number


def ranked_attention(attention: torch.Tensor) -> torch.Tensor:
    """(genes, genes) the mean over heads of ranks by rows, then by columns, each over the number of genes.

    Args:
        attention: (heads, genes that give, genes that receive).
    """
    number = attention.shape[-1]
    rows = _ranks(attention.double()) / number
    columns = _ranks(rows.transpose(1, 2).contiguous()).transpose(1, 2) / number
    return columns.mean(dim=0)


def _ranks(values: torch.Tensor) -> torch.Tensor:
    """Ranks from 0 along the last dimension; equal values share the mean of theirs."""
    ordered = values.sort(dim=-1).values
    below = torch.searchsorted(ordered, values.contiguous())
    up_to = torch.searchsorted(ordered, values.contiguous(), right=True)
    return (below + up_to - 1).double() / 2


def _attentions(encoder: CellEncoder, encoding: dict[str, torch.Tensor]) -> torch.Tensor:
    """(cells, heads, tokens, tokens) of the encoder's layer; tokens of the model's own, behind a cell's, left out."""
    model: Any = encoder.model
    inputs = {name: tensor.to(model.device) for name, tensor in encoding.items()}
    # Without it, a model may leave out what only the states of genes need.
    whole = {"output_genes": True} if "output_genes" in inspect.signature(model.forward).parameters else {}
    with torch.inference_mode():
        found = model(**inputs, **whole, output_attentions=True).attentions
    tokens = encoding["input_ids"].shape[1]
    layer = found[encoder.hidden_layer] if found else None
    if layer is None or layer.dim() != 4 or min(layer.shape[2:]) < tokens:
        raise ValueError(f"{type(model).__name__} gives no attentions between all genes of a cell.")
    return layer[:, :, :tokens, :tokens]


@contextmanager
def _eager(encoder: CellEncoder) -> Iterator[None]:
    """Attention that keeps its weights; the one of before afterwards."""
    model: Any = encoder.model
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


__all__ = ["encoded_parts", "input_embeddings", "mean_attentions", "mean_states", "ranked_attention"]
