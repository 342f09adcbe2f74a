"""Cells that were tokenized once, in files on disk, and are read in any order: an epoch costs no tokenizing."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers.utils import logging

from state_hf.data.cells.stored_matrix import CellMatrix
from state_hf.tokenization.cell_tokenizer import CellTokenizer
from state_hf.tokenization.gene_names import GeneReport
from state_hf.tokenization.input_scale import InputType

_INDEX = "encoded.json"
_BLOCK_CELLS = 512


def encode_to_disk(
    folder: Path,
    cells: CellMatrix,
    tokenizer: CellTokenizer,
    genes: GeneReport,
    *,
    input_type: InputType,
    max_length: int,
    seed: int = 0,
    rows: np.ndarray | None = None,
    **encoding: Any,
) -> None:
    """Tokenize cells of a data set into a folder, block by block, with a progress bar; padding is left out.

    A folder that is complete stays as it is; what an interrupted call left in one is made anew.

    Args:
        folder: The folder to make.
        cells: The data.
        tokenizer: Whose tokens they become.
        genes: How the data's genes map to its vocabulary.
        input_type: "counts" or "log1p".
        max_length: Most tokens of a cell.
        seed: Of the tokenizer's random choices.
        rows: Row numbers of the cells, ascending; None for all. The folder numbers them from 0.
        **encoding: The tokenizer's own options.
    """
    if EncodedCells.is_complete(folder):
        return
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    files: dict[str, Any] = {}
    dtypes: dict[str, str] = {}
    starts = [0]
    chosen = np.ones(cells.num_cells, np.bool_) if rows is None else np.isin(np.arange(cells.num_cells), rows)
    bar = logging.tqdm(total=int(chosen.sum()), unit=" cells", desc="tokenize")
    try:
        for first in range(0, cells.num_cells, _BLOCK_CELLS):
            stop = min(first + _BLOCK_CELLS, cells.num_cells)
            if not chosen[first:stop].any():
                continue
            block = tokenizer.encode_cells(
                cells.block(first, stop),
                genes,
                input_type=input_type,
                seed=seed,
                first_cell=first,
                max_length=max_length,
                return_tensors="np",
                **encoding,
            )
            real = block["attention_mask"].astype(bool) & chosen[first:stop, None]
            starts += (starts[-1] + np.cumsum(real.sum(axis=1)[chosen[first:stop]])).tolist()
            for name, values in block.items():
                if name == "attention_mask":
                    continue
                # Ids fit into 32 bits.
                kept = values[real].astype(np.int32 if values.dtype.kind in "iu" else np.float32)
                if name not in files:
                    files[name], dtypes[name] = (folder / f"{name}.bin").open("wb"), kept.dtype.str
                files[name].write(kept.data)
            bar.update(int(chosen[first:stop].sum()))
    finally:
        bar.close()
        for file in files.values():
            file.close()
    np.save(folder / "starts.npy", np.array(starts, dtype=np.int64))
    # Written last: a folder with it is complete.
    content = {"dtypes": dtypes, "pad_token_id": getattr(tokenizer, "pad_token_id", 0)}
    (folder / _INDEX).write_text(json.dumps(content), encoding="utf-8")


class EncodedCells(Dataset[dict[str, torch.Tensor]]):
    """Some cells of a folder of `encode_to_disk`, with their labels; items come as whole padded batches.

    Args:
        folder: The folder.
        rows: Which of its cells, in the order of this data set.
        labels: (rows,) class numbers, or numbers of a regression; None for cells without.
        token_labels: Instead, (token ids,) class number of every token, -100 for those without.
    """

    def __init__(
        self,
        folder: Path,
        rows: Sequence[int] | np.ndarray,
        labels: np.ndarray | None = None,
        *,
        token_labels: np.ndarray | None = None,
    ) -> None:
        content = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
        self.folder = folder
        self.pad_token_id = content["pad_token_id"]
        self.starts = np.load(folder / "starts.npy")
        self.values = {
            name: np.memmap(folder / f"{name}.bin", dtype=np.dtype(dtype), mode="r")
            for name, dtype in content["dtypes"].items()
        }
        self.rows = np.asarray(rows, dtype=np.int64)
        self.labels = None if labels is None else torch.as_tensor(labels)
        self.token_labels = None if token_labels is None else torch.as_tensor(token_labels)

    @staticmethod
    def is_complete(folder: Path) -> bool:
        """Whether a folder holds all cells."""
        return (folder / _INDEX).is_file()

    def __len__(self) -> int:
        return len(self.rows)

    def cells_of_tokens(self, number: int) -> np.ndarray:
        """(number,) in how many cells each token id occurs; in a cell, a token stands once."""
        bounds = zip(self.starts[self.rows].tolist(), self.starts[self.rows + 1].tolist(), strict=True)
        counts = np.zeros(number, np.int64)
        for start, stop in bounds:
            counts[self.values["input_ids"][start:stop]] += 1
        return counts

    def holding(self, tokens: np.ndarray) -> np.ndarray:
        """(rows,) bool: which cells have one of these token ids."""
        is_wanted = np.zeros(
            max(int(tokens.max(initial=0)), int(self.values["input_ids"].max(initial=0))) + 1, np.bool_
        )
        is_wanted[tokens] = True
        bounds = zip(self.starts[self.rows].tolist(), self.starts[self.rows + 1].tolist(), strict=True)
        return np.array([is_wanted[self.values["input_ids"][start:stop]].any() for start, stop in bounds], np.bool_)

    @property
    def lengths(self) -> np.ndarray:
        """(rows,) tokens of every cell."""
        return (self.starts[1:] - self.starts[:-1])[self.rows]

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {name: values[0] for name, values in self.__getitems__([index]).items()}

    def __getitems__(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        """A batch: the model's inputs, (cells, tokens) each, and `labels` (cells,), or of tokens (cells, tokens)."""
        rows = self.rows[list(indices)]
        bounds = list(zip(self.starts[rows].tolist(), self.starts[rows + 1].tolist(), strict=True))
        shape = (len(rows), max(stop - start for start, stop in bounds))
        batch = {"attention_mask": torch.zeros(shape, dtype=torch.int64)}
        for name, values in self.values.items():
            is_id = values.dtype.kind == "i"
            padding = self.pad_token_id if name == "input_ids" else 0
            batch[name] = torch.full(shape, padding, dtype=torch.int64 if is_id else torch.float32)
        for at, (start, stop) in enumerate(bounds):
            batch["attention_mask"][at, : stop - start] = 1
            for name, values in self.values.items():
                batch[name][at, : stop - start] = torch.from_numpy(np.array(values[start:stop]))
        if self.labels is not None:
            batch["labels"] = self.labels[list(indices)]
        if self.token_labels is not None:
            batch["labels"] = self.token_labels[batch["input_ids"]].masked_fill(batch["attention_mask"] == 0, -100)
        return batch


def whole_batch(batch: Any) -> Any:
    """A collator for data sets whose items come as batches."""
    return batch


__all__ = ["EncodedCells", "encode_to_disk", "whole_batch"]
