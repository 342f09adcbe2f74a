"""From cells of a corpus to a pretraining batch: what the model sees of each cell, and what it is to predict."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from scipy import sparse

from state_hf.configuration.advice import Advised
from state_hf.data.corpus.cell_corpus import CorpusCells
from state_hf.modeling.losses.expression import NO_LABEL
from state_hf.tokenization._keyed_draws import GOLDEN, mix
from state_hf.tokenization.state_embedding import StateEmbeddingTokenizer
from state_hf.training import _target_kernels

# Separate the streams of targets, of views and of shared genes.
_TARGETS, _VIEWS, _SHARED = 1, 2, 3
_LOG_1 = float(np.expm1(1.0))


class ExpressionTargets:
    """Collator of State Embedding's pretraining: cells in, sentences and target genes out.

    For each cell it draws `expressed` of its expressed genes (with replacement if it has fewer) and `unexpressed` of
    the file's others; `shared` genes are the same for all cells of a step. All draws are functions of the seed and the
    cell's position in the corpus, so that a cell gets other targets in the next pass, and the same whatever stands
    beside it.

    The original's choices are given beside ours where they differ.

    Args:
        tokenizer: Writes the sentences, filled as it says (original: other unexpressed genes in every draw).
        expressed: Expressed target genes of a cell (original: 512).
        unexpressed: Unexpressed target genes of a cell (original: 512).
        shared: Target genes that all cells of a step share (original's code: 512; its paper 256, which makes the 1,280
            genes a cell that the model is known for).
        views: Sentences of a cell: the first of all its counts, the others of a part of them, drawn anew.
        lowest_share: The smallest part of a cell's counts that a view is made of; the largest is all (original: 0.3).
        hidden_share: The smallest and the largest part of a cell's expressed genes that are hidden from the model; a
            cell's is drawn between them, and these genes are its first targets (original: (0, 0)).
        unexpressed_genes: "zero" for genes without a count, or "below_1" for those whose log1p value is below 1, which
            the original takes for unexpressed: one molecule is 0.69.
        unmeasured: What the label of a shared gene is that a cell's file does not have: "unlabelled", or "zero", as the
            original has it, for losses that compare whole tables.
        sentence_length: Tokens of a sentence at most; by default the tokenizer's.
        dataset_classes: Class of each dataset's name; None leaves the dataset labels out.
        cells_per_step: Cells of an optimisation step, which have the same shared genes.
        seed: Seed of all draws.
    """

    def __init__(
        self,
        tokenizer: StateEmbeddingTokenizer,
        *,
        expressed: int = 512,
        unexpressed: int = 512,
        shared: int = 256,
        views: int = 1,
        lowest_share: float = 0.3,
        hidden_share: tuple[float, float] = (0.0, 0.0),
        unexpressed_genes: Literal["zero", "below_1"] = "zero",
        unmeasured: Literal["unlabelled", "zero"] = "unlabelled",
        sentence_length: int | None = None,
        dataset_classes: Mapping[str, int] | None = None,
        cells_per_step: int = 1,
        seed: int = 0,
    ) -> None:
        low, high = hidden_share
        if not 0 <= low <= high < 1:
            raise ValueError(f"hidden_share must be two numbers from 0 to below 1, ascending, and is {hidden_share}")
        if not 0 < lowest_share <= 1:
            raise ValueError(f"lowest_share must be above 0 and at most 1, and is {lowest_share}")
        if min(expressed, unexpressed, shared) < 0 or expressed + unexpressed < 1 or views < 1:
            raise ValueError(
                "expressed, unexpressed and shared must be 0 or more, with one target and one view at least"
            )
        self.tokenizer, self.views, self.lowest_share, self.hidden_share = tokenizer, views, lowest_share, (low, high)
        self.expressed, self.unexpressed = expressed, unexpressed
        self.shared = min(shared, tokenizer.vocab_size)
        self.unexpressed_genes, self.unmeasured = unexpressed_genes, unmeasured
        self.sentence_length = sentence_length
        self.dataset_classes = None if dataset_classes is None else dict(dataset_classes)
        self.cells_per_step, self.seed = cells_per_step, seed

    def __call__(self, cells: Sequence[CorpusCells]) -> dict[str, torch.Tensor]:
        """Make a batch.

        Args:
            cells: Cells by file, as `CellCorpus` gives them.

        Returns:
            `input_ids`, `expression` and `attention_mask` (cells x views, tokens); `target_ids` (cells, expressed +
            unexpressed); `shared_target_ids` (shared,); `labels` (cells x views, all targets), log1p; `dataset_labels`
            (cells x views,). The views of a cell are consecutive.
        """
        shared = self._shared_genes(int(cells[0].positions[0]) // self.cells_per_step)
        parts = [self._of_one_file(part, shared) for part in cells]
        length = max(part["input_ids"].shape[1] for part in parts)
        padding = {"input_ids": self.tokenizer.pad_token_id, "expression": 0, "attention_mask": 0}
        batch: dict[str, torch.Tensor] = {}
        for name in parts[0]:
            arrays = [part[name] for part in parts]
            if name in padding:
                arrays = [
                    np.pad(array, ((0, 0), (0, length - array.shape[1])), constant_values=padding[name])
                    if array.shape[1] < length
                    else array
                    for array in arrays
                ]
            # Most batches are of one file, whose arrays need no copy.
            batch[name] = torch.from_numpy(np.concatenate(arrays) if len(arrays) > 1 else arrays[0])
        batch["shared_target_ids"] = torch.from_numpy(shared)
        return batch

    def _keys(self, positions: np.ndarray, stream: int) -> np.ndarray:
        with np.errstate(over="ignore"):
            base = np.uint64(self.seed) * GOLDEN + np.uint64(stream)
            return np.array([mix(mix(base) + np.uint64(position) * GOLDEN) for position in positions], np.uint64)

    def _shared_genes(self, step: int) -> np.ndarray:
        generator = np.random.default_rng([self.seed, _SHARED, step])
        return np.sort(generator.choice(self.tokenizer.vocab_size, self.shared, replace=False))

    def _of_one_file(self, cells: CorpusCells, shared: np.ndarray) -> dict[str, np.ndarray]:
        matrix, genes, file = cells.counts, cells.source.genes, cells.source.file
        is_counts = file.scale == "counts"
        if self.views > 1 and not is_counts:
            raise ValueError(
                Advised(f"{file.path} holds log1p values, of which there are no downsampled views", "use views=1")
            )
        number = matrix.shape[0]
        visible = np.empty(len(matrix.data), np.bool_)
        targets = np.empty((number, self.expressed + self.unexpressed), np.int64)
        threshold = 0.0 if self.unexpressed_genes == "zero" else np.nextafter(_LOG_1 if is_counts else 1.0, 0)
        keys = self._keys(cells.positions, _TARGETS)
        _target_kernels.draw_targets(
            matrix.data, matrix.indices, matrix.indptr, genes.columns, genes.genes, self.tokenizer.vocab_size, keys,
            *self.hidden_share, threshold, self.expressed, visible, targets,
        )  # fmt: skip
        views = [self._view(matrix, cells.positions, view) for view in range(self.views)]
        sentences = [self._sentences(cells, values * visible) for values in views]
        labels = [self._labels(matrix, values, cells, is_counts, targets, shared) for values in views]
        length = max(encoded["input_ids"].shape[1] for encoded in sentences)
        part = {name: self._interleaved([encoded[name] for encoded in sentences], length, fill)
                for name, fill in (("input_ids", self.tokenizer.pad_token_id), ("expression", 0),
                                   ("attention_mask", 0))}  # fmt: skip
        part |= {"target_ids": targets, "labels": self._interleaved(labels, labels[0].shape[1], 0)}
        if self.dataset_classes is not None:
            if file.dataset not in self.dataset_classes:
                raise ValueError(
                    f"The dataset {file.dataset!r} ({file.path}) has no class: extend the model's datasets."
                )
            part["dataset_labels"] = np.full(number * self.views, self.dataset_classes[file.dataset])
        return part

    def _view(self, matrix: sparse.csr_array, positions: np.ndarray, view: int) -> np.ndarray:
        if view == 0:
            return matrix.data
        values = np.empty_like(matrix.data)
        keys = self._keys(positions, _VIEWS + 16 * view)
        _target_kernels.downsample(matrix.data, matrix.indptr, keys, self.lowest_share, values)
        return values

    def _sentences(self, cells: CorpusCells, values: np.ndarray) -> Any:
        matrix = sparse.csr_array((values, cells.counts.indices, cells.counts.indptr), shape=cells.counts.shape)
        try:
            return self.tokenizer.encode_cells(
                matrix,
                cells.source.genes,
                input_type=cells.source.file.scale,
                seed=self.seed,
                first_cell=int(cells.positions[0]),
                max_length=self.sentence_length,
                return_tensors="np",
            )
        except ValueError as error:
            listed = ", ".join(map(str, cells.cells.tolist()))
            raise ValueError(f"{cells.source.file.path}, of the cells {listed}: {error}") from error

    def _labels(
        self,
        matrix: sparse.csr_array,
        values: np.ndarray,
        cells: CorpusCells,
        is_counts: bool,  # noqa: FBT001 - private
        targets: np.ndarray,
        shared: np.ndarray,
    ) -> np.ndarray:
        genes = cells.source.genes
        known = np.zeros(self.tokenizer.vocab_size, np.bool_)
        known[genes.genes] = True
        labels = np.empty((len(targets), targets.shape[1] + len(shared)), np.float32)
        missing = NO_LABEL if self.unmeasured == "unlabelled" else 0.0
        _target_kernels.write_target_labels(
            values, matrix.indices, matrix.indptr, genes.columns, known, is_counts, targets, shared, missing, labels
        )
        return labels

    def _interleaved(self, views: Sequence[np.ndarray], width: int, fill: Any) -> np.ndarray:
        """(cells x views, width), the views of a cell one after the other."""
        if len(views) == 1:
            return views[0]
        out = np.full((len(views[0]), len(views), width), fill, views[0].dtype)
        for number, view in enumerate(views):
            out[:, number, : view.shape[1]] = view
        return out.reshape(-1, width)


__all__ = ["ExpressionTargets"]
