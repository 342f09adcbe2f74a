"""Perturbs genes of cells in silico, and says how far the cells, and their other genes, move in a model's view.

The published effects are those of Geneformer (Theodoris et al. 2023, doi:10.1038/s41586-023-06139-9). With h_i the
state of gene i in the cell as it is and h'_i in the perturbed cell, over the genes that are not perturbed:

- `gene_cosine`: the mean of cos(h_i, h'_i).
- `shift_to_S`: cos(mean h'_i, s) - cos(mean h_i, s), s the mean over the cells of state S of their genes' mean states.

The plain ones, with c and c' the embeddings of the cell before and after, as `CellEncoder` gives them:

- `cell_cosine`: cos(c, c').
- `cell_distance`: the Euclidean distance of c and c'.
- `cell_shift_to_S`: cos(c', t) - cos(c, t), t the mean of the embeddings of the cells of state S.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from state_hf.analysis.gene_perturbations import GenePerturbation
from state_hf.configuration.wording import counted
from state_hf.inference.cell_encoder import CellEncoder, CellStates, trimmed
from state_hf.tokenization.gene_changes import GeneChange, check_gene_change, needs_expression

# States of the genes of so many bytes are held at once.
_STATE_BYTES = 2**28
_PLAIN_EFFECTS = ("gene_cosine", "cell_cosine", "cell_distance")


@dataclass(frozen=True)
class StateCentroid:
    """Where the cells of a state lie.

    Attributes:
        genes: (width,) the mean over its cells of the mean state of a cell's genes.
        cell: (cell width,) the mean of the embeddings of its cells.
    """

    genes: torch.Tensor
    cell: torch.Tensor


@dataclass(frozen=True)
class PerturbationEffects:
    """What perturbations do to cells.

    Attributes:
        values: (cells, perturbations, effects) float32; NaN where a cell does not express what is perturbed.
        displacement: (2, perturbations, cell width) float64: sums of c' - c over the cells with an even position in
            the data, and with an odd one.
        displaced: (2, perturbations) how many cells are in each sum.
        gene_cosines: (perturbations, affected genes) float64 sums of cos(h_i, h'_i), or None.
        gene_cells: (perturbations, affected genes) how many cells are in each sum, or None.
    """

    values: np.ndarray
    displacement: np.ndarray
    displaced: np.ndarray
    gene_cosines: np.ndarray | None
    gene_cells: np.ndarray | None


class InSilicoPerturber:
    """Perturbs genes of cells, for a model of any family whose tokenizer has `set_genes`.

    Args:
        encoder: The model and its tokenizer, in evaluation mode.
        perturbations: What is perturbed, one after the other.
        change: One of the tokenizer's `gene_changes`.
        level: Of the change "level", in [0, 1].
        centroids: States that shifts are measured towards, by name.
        add_genes: Whether a change that can, adds a gene to a cell that does not express it; else such a cell has no
            number.
        affected: Vocabulary rows of the genes whose own effects are summed, or None for none.

    Raises:
        ValueError: The family has no such change.

    Example:
        >>> encoder = CellEncoder.from_pretrained(folder)
        >>> perturber = InSilicoPerturber(encoder, [GenePerturbation("the vocabulary's third", (2,))], "delete")
        >>> with encoder.evaluating():
        ...     effects = perturber.effects(encoder.tokenizer.encode_cells(adata), np.arange(adata.n_obs))
    """

    def __init__(
        self,
        encoder: CellEncoder,
        perturbations: Sequence[GenePerturbation],
        change: GeneChange,
        *,
        level: float | None = None,
        centroids: Mapping[str, StateCentroid] | None = None,
        add_genes: bool = True,
        affected: np.ndarray | None = None,
    ) -> None:
        check_change(encoder, change, level)
        # Any: `set_genes` is there, and no method of all tokenizers.
        self.tokenizer: Any = encoder.tokenizer
        self.encoder, self.change, self.level = encoder, change, level
        self.perturbations, self.centroids = list(perturbations), dict(centroids or {})
        self.needs_expression = needs_expression(change) or not add_genes
        longest = max(len(one.rows) for one in self.perturbations)
        self._rows = np.full((len(self.perturbations), longest), -1)
        for at, one in enumerate(self.perturbations):
            self._rows[at, : len(one.rows)] = one.rows
        self.affected = affected

    @property
    def effect_names(self) -> list[str]:
        """The effects, in the order of `PerturbationEffects.values`."""
        return effect_names(self.centroids)

    def perturbable(self, encoding: Mapping[str, torch.Tensor]) -> np.ndarray:
        """(cells, perturbations) bool: where a perturbation has a number.

        A cell has to express a gene that is to be perturbed, unless it is added, and to have another one.
        """
        tokens = self.tokenizer.gene_rows(encoding).numpy()
        genes = len(self.tokenizer.gene_index.genes)
        in_cell = np.zeros((len(tokens), genes + 1), bool)
        expressed = np.zeros_like(in_cell)
        cells = np.broadcast_to(np.arange(len(tokens))[:, None], tokens.shape)
        known = self.tokenizer.expressed_tokens(encoding).numpy()
        in_cell[cells[tokens >= 0], tokens[tokens >= 0]] = True
        expressed[cells[known], tokens[known]] = True
        # The last column, which -1 points to, is no gene.
        there = expressed[:, self._rows].any(axis=2) if self.needs_expression else True
        others = in_cell.sum(axis=1)[:, None] - in_cell[:, self._rows].sum(axis=2)
        return (others > 0) & there

    def effects(
        self,
        encoding: Mapping[str, torch.Tensor],
        positions: np.ndarray,
        progress: Callable[[int], Any] = lambda copies: None,
    ) -> PerturbationEffects:
        """Perturb every cell with every perturbation.

        The cells as they are go through the model once. A copy whose tokens a perturbation leaves as they were has
        no effect, and does not go through it.

        Args:
            encoding: Of `tokenizer.encode_cells`.
            positions: (cells,) of the cells in the data.
            progress: Called with a number of perturbed cells when they are done.
        """
        copies = np.argwhere(self.perturbable(encoding))
        values = np.full((len(positions), len(self.perturbations), len(self.effect_names)), np.nan, np.float32)
        sums = _Sums(len(self.perturbations), self.affected)
        tokens = encoding["input_ids"].shape[1]
        at_once = max(1, _STATE_BYTES // (4 * tokens * self.encoder.model.config.hidden_size))
        for start in range(0, len(positions), at_once):
            cells = np.arange(start, min(start + at_once, len(positions)))
            part = copies[(copies[:, 0] >= start) & (copies[:, 0] <= cells[-1])]
            before = trimmed(encoding, cells, keep_mask=True)
            self._perturb(before, part, positions[part[:, 0]] % 2, start, values, sums, progress)
        return sums.effects(values)

    def _perturb(
        self,
        encoding: dict[str, torch.Tensor],
        copies: np.ndarray,
        halves: np.ndarray,
        start: int,
        values: np.ndarray,
        sums: "_Sums",
        progress: Callable[[int], Any],
    ) -> None:
        """Perturb the cells of a part of the block, which begins at `start`."""
        before = unperturbed_states(self.encoder, encoding)
        sums.set_width(before.cell.shape[1])
        lengths = encoding["attention_mask"].sum(dim=1).numpy()
        # A family without this change has no such argument.
        level = {} if self.level is None else {"level": self.level}

        def run(batch: np.ndarray) -> None:
            cells, which = copies[batch, 0] - start, copies[batch, 1]
            copy, rows = trimmed(encoding, cells, keep_mask=True), self._rows[which]
            after = self.tokenizer.set_genes(copy, rows, self.change, max_length=self.encoder.length, **level)
            moved = np.flatnonzero(~_same_input(copy, after))
            numbers = np.zeros((len(batch), len(self.effect_names)), np.float32)
            numbers[:, [0, 1]] = 1
            tokens = self.tokenizer.gene_rows(copy)
            changed = (tokens[:, :, None] == torch.from_numpy(rows)[:, None, :]).any(dim=2)
            kept = self.tokenizer.expressed_tokens(copy) & ~changed
            # A gene of several tokens counts once.
            shares = kept / _occurrence(tokens)[1]
            cosines = kept.double()
            displaced = torch.zeros(len(batch), before.cell.shape[1], dtype=torch.float64)
            if len(moved):
                states = self.encoder.states(trimmed(after, moved), output_genes=True)
                pairs = _aligned(before, cells[moved], tokens[moved], kept[moved], states)
                shares[moved] *= pairs.valid
                numbers[moved], found, displaced[moved] = self._compare(
                    before, cells[moved], pairs, states, shares[moved]
                )
                cosines[moved] = found
            # A batch that did not fit comes again in parts: nothing is kept of it before it has gone through.
            values[copies[batch, 0], which] = numbers
            sums.add(which, halves[batch], displaced, tokens, shares, cosines)

        for batch, _ in self.encoder.in_batches(lengths[copies[:, 0] - start], run):
            progress(len(batch))

    def _compare(
        self,
        before: CellStates,
        cells: np.ndarray,
        pairs: "_StatePairs",
        after: CellStates,
        shares: torch.Tensor,
    ) -> tuple[np.ndarray, torch.Tensor, torch.Tensor]:
        """The effects on the cells, (copies, tokens) cosines of genes, and what was added to the cells."""
        cosines = torch.cosine_similarity(pairs.before, pairs.after, dim=-1)
        weights = (shares / shares.sum(dim=1, keepdim=True).clamp(min=1e-12)).to(cosines)
        old_cell = before.cell[torch.from_numpy(cells).to(before.cell.device)].float()
        new_cell = after.cell.float()
        columns = [
            (weights * cosines).sum(dim=1),
            torch.cosine_similarity(old_cell, new_cell),
            torch.linalg.vector_norm(new_cell - old_cell, dim=1),
        ]
        if self.centroids:
            old_mean, new_mean = (torch.einsum("ct,ctw->cw", weights, side) for side in (pairs.before, pairs.after))
            for centroid in self.centroids.values():
                columns.append(_shift(old_mean, new_mean, centroid.genes))
                columns.append(_shift(old_cell, new_cell, centroid.cell))
        numbers = torch.stack(columns, dim=1)
        if not bool(torch.isfinite(numbers).all()):
            raise ValueError("The model's output is not finite for a perturbed cell: check the weights for NaN.")
        return numbers.cpu().numpy(), cosines.double().cpu(), (new_cell - old_cell).double().cpu()


@dataclass(frozen=True)
class _StatePairs:
    """(copies, tokens of before) which genes are in both, and their states (copies, tokens, width) in each."""

    valid: torch.Tensor
    before: torch.Tensor
    after: torch.Tensor


def _aligned(
    before: CellStates, cells: np.ndarray, tokens: torch.Tensor, kept: torch.Tensor, after: CellStates
) -> _StatePairs:
    """The states of the unperturbed genes before and after, beside each other, wherever their tokens are."""
    # A gene of several tokens has them in the same order on both sides.
    rows, places = after.gene_rows.sort(dim=1, stable=True)
    found = (torch.searchsorted(rows, tokens) + _occurrence(tokens)[0]).clamp(max=rows.shape[1] - 1)
    valid = kept & (rows.gather(1, found) == tokens)
    old: Any = before.genes
    new: Any = after.genes
    old = old[torch.from_numpy(cells).to(old.device), : tokens.shape[1]]
    places = places.gather(1, found).to(new.device)
    new = new.gather(1, places[..., None].expand(-1, -1, new.shape[2]))
    return _StatePairs(valid, old.float(), new.float())


def _occurrence(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(cells, tokens) how many earlier tokens of the cell have the same row, and how many have it in all."""
    ordered, places = rows.sort(dim=1, stable=True)
    first = torch.searchsorted(ordered, ordered)
    number = torch.searchsorted(ordered, ordered, right=True) - first
    earlier = torch.arange(rows.shape[1]) - first
    return torch.empty_like(rows).scatter_(1, places, earlier), torch.empty_like(rows).scatter_(1, places, number)


class _Sums:
    """Sums over the cells of a block, for every perturbation."""

    def __init__(self, number: int, affected: np.ndarray | None) -> None:
        self.number, self.affected = number, affected
        self.displaced = np.zeros(2 * number)
        self.displacement = np.zeros((2 * number, 0))
        if affected is not None:
            self.columns = np.full(int(affected.max(initial=-1)) + 2, -1)
            self.columns[affected] = np.arange(len(affected))
            self.cosines, self.cells = np.zeros((2, number * len(affected)))

    def set_width(self, width: int) -> None:
        if not self.displacement.shape[1]:
            self.displacement = np.zeros((2 * self.number, width))

    def add(
        self,
        which: np.ndarray,
        halves: np.ndarray,
        displaced: torch.Tensor,
        tokens: torch.Tensor,
        shares: torch.Tensor,
        cosines: torch.Tensor,
    ) -> None:
        place = halves * self.number + which
        self.displaced += np.bincount(place, minlength=2 * self.number)
        np.add.at(self.displacement, place, displaced.numpy())
        if self.affected is None:
            return
        rows = tokens.numpy()
        # Rows behind the last affected one, and -1, meet the last column, which is no gene.
        columns = self.columns[np.where(rows < len(self.columns), rows, -1)]
        valid = (shares.numpy() > 0) & (columns >= 0)
        flat, weights = (which[:, None] * len(self.affected) + columns)[valid], shares.numpy()[valid]
        np.add.at(self.cells, flat, weights)
        np.add.at(self.cosines, flat, weights * cosines.numpy()[valid])

    def effects(self, values: np.ndarray) -> PerturbationEffects:
        """The sums beside the values of every cell."""
        shape = (2, self.number)
        genes: list[np.ndarray | None] = [None, None]
        if self.affected is not None:
            genes = [part.reshape(self.number, len(self.affected)) for part in (self.cosines, self.cells)]
        return PerturbationEffects(values, self.displacement.reshape(*shape, -1), self.displaced.reshape(shape), *genes)


def check_change(encoder: CellEncoder, change: str, level: float | None = None) -> None:
    """Refuse a family that cannot be perturbed, or not so.

    Raises:
        ValueError: It cannot (the message says what it can), or the change has no such level.
    """
    tokenizer = encoder.tokenizer
    name = type(tokenizer).__name__
    if not hasattr(tokenizer, "set_genes"):
        raise ValueError(f"Cells of {name} cannot be perturbed in silico: it has no set_genes.")
    if change not in tokenizer.gene_changes:
        raise ValueError(f"{name} has no change {change!r}: it has {', '.join(tokenizer.gene_changes)}.")
    check_gene_change(change, level, tokenizer.gene_changes)


def effect_names(states: Sequence[str] | Mapping[str, Any]) -> list[str]:
    """The effects on cells: those that need no states, then two for each state (see above)."""
    return [*_PLAIN_EFFECTS, *(name for state in states for name in (f"shift_to_{state}", f"cell_shift_to_{state}"))]


def unperturbed_states(encoder: CellEncoder, encoding: Mapping[str, torch.Tensor]) -> CellStates:
    """The states of all cells of an encoding, and of all of their tokens, on the model's device.

    Raises:
        ValueError: The model gives no states of genes, or ones that are not finite.
    """
    lengths = encoding["attention_mask"].sum(dim=1).numpy()
    cell: Any = None
    genes: Any = None
    for batch, states in encoder.in_batches(
        lengths, lambda batch: encoder.states(trimmed(encoding, batch), output_genes=True)
    ):
        if states.genes is None:
            raise ValueError(f"{type(encoder.model).__name__} gives no states of genes.")
        if genes is None:
            shape = (*encoding["input_ids"].shape, states.genes.shape[2])
            cell, genes = states.cell.new_empty(len(lengths), states.cell.shape[1]), states.genes.new_zeros(shape)
        rows = torch.from_numpy(batch).to(genes.device)
        cell[rows] = states.cell
        genes[rows, : states.genes.shape[1]] = states.genes
    broken = int((~torch.isfinite(cell).all(dim=1)).sum())
    if broken:
        raise ValueError(f"The model's output is not finite for {counted(broken, 'cell')}: check the weights for NaN.")
    return CellStates(cell, None, genes, encoder.tokenizer.gene_rows(encoding))


def mean_gene_states(encoder: CellEncoder, encoding: Mapping[str, torch.Tensor], states: CellStates) -> torch.Tensor:
    """(cells, width) float32: the mean state of the genes that each cell expresses."""
    genes: Any = states.genes
    weights = encoder.tokenizer.expressed_tokens(encoding) / _occurrence(states.gene_rows)[1]
    weights = (weights / weights.sum(dim=1, keepdim=True).clamp(min=1e-12)).to(genes.device)
    return torch.einsum("ct,ctw->cw", weights.float(), genes.float())


def _same_input(before: Mapping[str, torch.Tensor], after: Mapping[str, torch.Tensor]) -> np.ndarray:
    """(copies,) bool: whether a copy is what it was."""
    width = max(before["input_ids"].shape[1], after["input_ids"].shape[1])

    def padded(tensor: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.pad(tensor * mask, (0, width - tensor.shape[1]))

    masks = before["attention_mask"], after["attention_mask"]
    same = [padded(before[name], masks[0]) == padded(after[name], masks[1]) for name in before]
    return torch.stack(same).all(dim=2).all(dim=0).numpy()


def _shift(old: torch.Tensor, new: torch.Tensor, goal: torch.Tensor) -> torch.Tensor:
    towards = goal.to(old)[None]
    return torch.cosine_similarity(new, towards) - torch.cosine_similarity(old, towards)


__all__ = [
    "InSilicoPerturber",
    "PerturbationEffects",
    "StateCentroid",
    "check_change",
    "effect_names",
    "mean_gene_states",
    "unperturbed_states",
]
