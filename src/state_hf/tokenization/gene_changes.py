"""What an in-silico perturbation does to genes of a cell, in the same words and levels for every family.

A level says where a gene stands among the genes that a cell expresses: 1 above all others, 0 below all. "overexpress"
is level 1. "inhibit" brings a gene down to level 0.25, "activate" up to 0.75; a gene that already is beyond stays.
"""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

GeneChange = Literal["delete", "overexpress", "inhibit", "activate", "level"]
GENE_CHANGES: tuple[GeneChange, ...] = get_args(GeneChange)
_LEVELS: dict[str, float] = {"overexpress": 1.0, "inhibit": 0.25, "activate": 0.75}


def needs_expression(change: GeneChange) -> bool:
    """Whether a change does nothing to a gene that the cell does not express; the others add it."""
    return change in ("delete", "inhibit")


def check_gene_change(change: str, level: float | None, supported: tuple[GeneChange, ...]) -> None:
    """Check a change and its level.

    Raises:
        ValueError: It is none of the supported ones, or lacks a level, or has one that it has no use for.
    """
    if change not in supported:
        raise ValueError(f"change is {change!r}; it has to be {' or '.join(map(repr, supported))}.")
    if (level is not None) != (change == "level") or (level is not None and not 0 <= level <= 1):
        raise ValueError(f"level is {level!r} for the change {change!r}: 'level' needs one in [0, 1], others none.")


@dataclass(frozen=True)
class ChangedGenes:
    """Which genes of cells change, and where they stand afterwards.

    Attributes:
        rows: (cells, changed) vocabulary rows, -1 for none.
        places: (cells, changed) how many of the other expressed genes stand above each afterwards; -1 where the gene
            is not in the cell.
        moved: (cells, changed) whether a gene that is in the cell afterwards stands elsewhere than before, or is new.
        others: (cells, tokens) whether a token is a gene that does not change.
        own: (cells, changed) the token of each gene before; -1 where it is not expressed.
    """

    rows: np.ndarray
    places: np.ndarray
    moved: np.ndarray
    others: np.ndarray
    own: np.ndarray

    def order(self) -> tuple[np.ndarray, np.ndarray]:
        """How the cells are put together again from the changed genes followed by the tokens of before.

        Returns:
            (cells, changed + tokens) places in that list, genes first, and (cells,) how many of them are genes.
        """
        ranks = np.cumsum(self.others, axis=1) - 1
        last = 2 * self.others.shape[1] + 2
        keys = np.concatenate(
            [np.where(self.places >= 0, 2 * self.places, last), np.where(self.others, 2 * ranks + 1, last)], axis=1
        )
        return np.argsort(keys, axis=1, kind="stable"), (keys < last).sum(axis=1)


def change_genes(
    tokens: np.ndarray,
    expressed: np.ndarray,
    rows: Any,
    change: str,
    *,
    level: float | None,
    supported: tuple[GeneChange, ...],
    vocabulary_size: int,
) -> ChangedGenes:
    """Find where genes stand after a change.

    Args:
        tokens: (cells, tokens) the vocabulary row of every token, -1 for none; expressed genes by falling expression,
            and before others.
        expressed: (cells, tokens) whether a token is a gene that the cell expresses.
        rows: Vocabulary rows of the genes to change: (genes,) for all cells, or (cells, genes) with -1 for none.
        change: One of `supported`.
        level: In [0, 1], of the change "level" alone.
        supported: The changes that the family has.
        vocabulary_size: Number of genes.

    Raises:
        ValueError: There is no such change or level, or a row is none of the vocabulary or named twice.
    """
    if change not in supported:
        raise ValueError(f"change is {change!r}; it has to be {' or '.join(map(repr, supported))}.")
    if (level is not None) != (change == "level") or (level is not None and not 0 <= level <= 1):
        raise ValueError(
            f"level is {level!r} for the change {change!r}; 'level' needs one in [0, 1], others have none."
        )
    given = np.asarray(rows, np.int64)
    changed = np.broadcast_to(given, (len(tokens), given.shape[-1]))
    if changed.max(initial=0) >= vocabulary_size or changed.min(initial=0) < -1:
        raise ValueError(f"rows goes from {changed.min()} to {changed.max()}; there are {vocabulary_size:,} genes.")
    in_order = np.sort(changed, axis=1)
    if ((in_order[:, 1:] == in_order[:, :-1]) & (in_order[:, 1:] >= 0)).any():
        raise ValueError("rows names a gene twice.")

    same = (tokens[:, :, None] == changed[:, None, :]) & (changed >= 0)[:, None, :]
    others = (tokens >= 0) & ~same.any(axis=2)
    counted = others & expressed
    same &= expressed[:, :, None]
    is_in = same.any(axis=1)
    own = np.where(is_in, same.argmax(axis=1), -1)
    above = np.take_along_axis(np.cumsum(counted, axis=1), np.maximum(own, 0), axis=1)
    if change == "delete":
        places = np.full(changed.shape, -1)
    else:
        wanted = level if level is not None else _LEVELS[change]
        places = np.rint((1 - wanted) * counted.sum(axis=1)).astype(np.int64)[:, None] + np.zeros_like(changed)
        if change == "inhibit":
            places = np.where(is_in, np.maximum(places, above), -1)
        elif change == "activate":
            places = np.where(is_in, np.minimum(places, above), places)
        places = np.where(changed >= 0, places, -1)
    moved = (places >= 0) & ~(is_in & (places == above))
    return ChangedGenes(changed, places, moved, others, own)


__all__ = ["GENE_CHANGES", "ChangedGenes", "GeneChange", "change_genes", "check_gene_change", "needs_expression"]
