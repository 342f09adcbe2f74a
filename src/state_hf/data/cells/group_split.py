"""Labelled cells divided into training, validation and test, by groups such as donors, and an audit of that."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

PARTS = ("train", "val", "test")


@dataclass(frozen=True, eq=False)
class LabelledSplit:
    """Which cells train, choose the checkpoint, and are scored.

    Attributes:
        rows: For every part, the row numbers of its cells, ascending.
        groups: For every part, the groups that its cells are of; empty without groups.
        audit: What can be said against the split, a sentence each; empty if nothing can.
    """

    rows: Mapping[str, np.ndarray]
    groups: Mapping[str, list[str]]
    audit: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """The split as plain numbers and strings, for JSON."""
        return {
            "cells": {part: len(rows) for part, rows in self.rows.items()},
            "groups": dict(self.groups),
            "audit": self.audit,
        }


def split_labelled_cells(
    labels: np.ndarray,
    *,
    groups: np.ndarray | None = None,
    val_share: float = 0.1,
    test_share: float = 0.2,
    seed: int = 0,
    by_class: bool = True,
) -> LabelledSplit:
    """Divide labelled cells.

    With groups, whole groups are held out, drawn in a seeded order until a part has its share of the cells; without,
    cells are drawn at random, of every class the same share.

    Args:
        labels: (cells,) a label each, "" (or NaN, for numbers) for cells that are left out.
        groups: (cells,) the group of every cell: donor, batch, study.
        val_share: Share of the cells to choose the checkpoint by, in [0, 1).
        test_share: Share of the cells to score, in (0, 1).
        seed: Of the draws.
        by_class: Whether labels are classes; else numbers.

    Raises:
        ValueError: Shares that leave nothing to train on, or fewer groups than parts.
    """
    if not 0 <= val_share < 1 or not 0 < test_share < 1 or val_share + test_share >= 1:
        raise ValueError(
            f"val_share ({val_share:g}) and test_share ({test_share:g}) must leave cells to train on: each below 1, "
            "test_share above 0, and their sum below 1"
        )
    known = np.flatnonzero(labels != "") if by_class else np.flatnonzero(~pd.isna(labels))
    rng = np.random.default_rng(seed)
    shares = {"test": test_share, "val": val_share}
    part_of = np.full(len(labels), "train", dtype=object)
    if groups is not None:
        _hold_out_groups(part_of, known, groups, shares, rng)
    else:
        for name in np.unique(labels[known].astype(str)) if by_class else [None]:
            members = known if name is None else known[labels[known].astype(str) == name]
            members = rng.permutation(members)
            counts = {part: round(share * len(members)) for part, share in shares.items()}
            part_of[members[: counts["test"]]] = "test"
            part_of[members[counts["test"] : counts["test"] + counts["val"]]] = "val"
    rows = {part: known[part_of[known] == part] for part in PARTS}
    for part, wanted in (("train", 1.0), *shares.items()):
        if wanted and not len(rows[part]):
            raise ValueError(
                f"no cell is left for the part {part!r}, of {len(known):,} labelled cells: change the shares"
            )
    found = {part: [] if groups is None else sorted(set(map(str, groups[cells]))) for part, cells in rows.items()}
    return LabelledSplit(rows, found, _audit(labels, rows, groups, by_class=by_class))


def _hold_out_groups(
    part_of: np.ndarray, known: np.ndarray, groups: np.ndarray, shares: Mapping[str, float], rng: np.random.Generator
) -> None:
    without = int((groups[known] == "").sum())
    if without:
        raise ValueError(f"{without:,} of {len(known):,} labelled cells have no group; give them one, or remove them")
    names, sizes = np.unique(groups[known].astype(str), return_counts=True)
    needed = 1 + sum(share > 0 for share in shares.values())
    if len(names) < needed:
        raise ValueError(
            f"{len(names)} groups ({', '.join(names[:5])}) cannot be divided into {needed} parts: choose another group "
            "column, hold out no validation part (val_share=0), or split by cells"
        )
    order = rng.permutation(len(names)).tolist()
    for part, share in shares.items():
        taken = 0
        while share and order and (taken == 0 or taken + sizes[order[0]] / 2 < share * len(known)):
            # The last groups are needed by the parts that come after.
            later = 1 + sum(other > 0 for name, other in shares.items() if name == "val" and part == "test")
            if len(order) <= later and taken:
                break
            chosen = order.pop(0)
            part_of[groups.astype(str) == names[chosen]] = part
            taken += sizes[chosen]


def _audit(
    labels: np.ndarray, rows: Mapping[str, np.ndarray], groups: np.ndarray | None, *, by_class: bool
) -> list[str]:
    found = []
    if groups is None:
        found.append(
            "cells were divided at random: cells of one donor or batch are on both sides, so scores are of these "
            "donors and batches, and not of new ones (a group column holds whole groups out)"
        )
    if by_class:
        of = {part: set(labels[cells].astype(str)) for part, cells in rows.items()}
        for part in ("val", "test"):
            unseen = sorted(of[part] - of["train"])
            if unseen:
                found.append(f"no cell of the training part has the labels {', '.join(unseen)} of the part {part!r}")
        unscored = sorted(of["train"] - of["test"])
        if unscored:
            found.append(f"no cell of the test part has the labels {', '.join(unscored)}, which are not scored")
    return found


def shared_profiles(digests: np.ndarray, rows: Mapping[str, np.ndarray]) -> int:
    """How many cells outside of the training part have exactly the expression of a cell in it.

    Args:
        digests: (cells,) a digest of every cell's expression.
        rows: Row numbers of the cells of every part.
    """
    seen = set(digests[rows["train"]].tolist())
    return sum(digest in seen for part in ("val", "test") for digest in digests[rows[part]].tolist())


__all__ = ["PARTS", "LabelledSplit", "shared_profiles", "split_labelled_cells"]
