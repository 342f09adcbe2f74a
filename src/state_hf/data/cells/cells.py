"""A data set of cells, wherever it lies: what it names, and the matrices in its slots."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd

from state_hf.configuration.near_names import near_names
from state_hf.data.cells.damage import damage_named
from state_hf.data.cells.layouts import Layout
from state_hf.data.cells.locations import is_url
from state_hf.data.cells.remote import url_fingerprint
from state_hf.data.cells.stored_matrix import CellMatrix
from state_hf.data.file_stamps import file_stamp

_DIGEST_CELLS = 4096
_DIGEST_BYTES = 2**24


class Cells(ABC):
    """The cells of one AnnData object or file. Opened by `open_cells`; no matrix is read until one is asked for.

    Attributes:
        name: What messages call the data: a file's path, or "the AnnData object".
        path: The file, store or URL; `None` for an object.
        num_cells: Number of cells.
    """

    name: str
    path: Path | str | None = None
    num_cells: int

    @abstractmethod
    def open_layout(self, slot: str) -> Layout:
        """Open the matrix of a slot.

        Raises:
            ValueError: There is no such slot.
        """

    @abstractmethod
    def slots(self) -> list[str]:
        """The slots that there are: "X", "raw/X", "layers/NAME", "obsm/NAME"."""

    @abstractmethod
    def frame(self, name: str) -> pd.DataFrame:
        """The frame "obs", "var" or "raw/var"."""

    @abstractmethod
    def column_names(self) -> list[str]:
        """Names of the columns of obs."""

    @abstractmethod
    def column(self, name: str) -> pd.Series:
        """A column of obs, without the others."""

    @abstractmethod
    def cell_names(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Names of the cells `start` to `stop` (`obs_names`), as a string array."""

    @property
    @abstractmethod
    def uns(self) -> Mapping[str, Any]:
        """The entries of `uns`, each read when it is asked for."""

    @abstractmethod
    def names_in(self, slot: str) -> list[str]:
        """The names that are taken in "obsm", "uns" or another slot with names."""

    @abstractmethod
    def element(self, slot: str, name: str) -> Any:
        """An entry of a slot with names as it is: of h5py or zarr, or what is in memory."""

    @abstractmethod
    def close(self) -> None:
        """Close what is open; reading again opens it again."""

    def matrix(self, slot: str) -> CellMatrix:
        """The matrix of a slot.

        Args:
            slot: "X", "raw/X", "layers/NAME" or "obsm/NAME".

        Raises:
            ValueError: There is no such slot (the message lists what there is), it has no cells, or no gene expression.
        """
        if slot not in self.slots():
            group, _, name = slot.rpartition("/")
            same = [other for other in self.slots() if other.rpartition("/")[0] == group]
            close = near_names(name, [other.rpartition("/")[2] for other in same])
            hint = f"; did you mean {group}/{close[0]}?" if close and group else ""
            known = ", ".join(self.slots()) or "no matrix at all"
            raise ValueError(f"there is no {slot} of {self.name}; it has {known}{hint}")
        return CellMatrix(self, slot)

    def expression(self, layer: str | None = None) -> CellMatrix:
        """The expression of the cells.

        Args:
            layer: `None` or "X" for X, "raw" for `raw.X` with the genes of `raw.var`, or the name of a layer (which
                wins where a layer is called "raw" or "X").

        Raises:
            ValueError: There is no X, or no such layer (the message lists the layers).
        """
        slots = self.slots()
        layers = [slot.removeprefix("layers/") for slot in slots if slot.startswith("layers/")]
        choices = [*(["raw"] if "raw/X" in slots else []), *layers]
        listed = f"has {', '.join(repr(choice) for choice in choices)}" if choices else "has no layers and no raw"
        if layer is None or (layer == "X" and "X" not in layers):
            if "X" not in slots:
                raise ValueError(f"{self.name} has no X; name a layer to read instead (it {listed})")
            return CellMatrix(self, "X")
        if layer in layers:
            return CellMatrix(self, f"layers/{layer}")
        if layer == "raw" and "raw/X" in slots:
            return CellMatrix(self, "raw/X")
        raise ValueError(f"{self.name} has no layer {layer!r} (it {listed})")

    def embedding_names(self, name: str) -> Sequence[str] | None:
        """What the columns of `obsm[name]` are called; `None` where the data do not say."""
        entry = self.uns.get(name)
        return entry["var_names"] if isinstance(entry, Mapping) and "var_names" in entry else None

    def fingerprint(self) -> str:
        """A short text that changes when the data do: sizes and times of the files, or a digest of X."""
        if self.path is None:
            return self.content_digest()
        return url_fingerprint(str(self.path)) if is_url(self.path) else file_stamp(Path(self.path))

    def content_digest(self, columns: Sequence[str] = ()) -> str:
        """SHA-256 of the content: of the bytes of a file or store, or of the names, some columns of obs, and X."""
        if is_url(self.path):
            return self.fingerprint()
        digest = hashlib.sha256()
        if self.path is not None:
            path = Path(self.path)
            for file in [path] if path.is_file() else sorted(entry for entry in path.rglob("*") if entry.is_file()):
                digest.update(f"{file.relative_to(path)}\0{file.stat().st_size}\0".encode())
                with file.open("rb") as stream:
                    while chunk := stream.read(_DIGEST_BYTES):
                        digest.update(chunk)
            return digest.hexdigest()
        matrix = self.expression()
        names = [*matrix.var.index, *self.cell_names(), *(text for name in columns for text in self.column(name))]
        digest.update("\0".join(map(str, names)).encode())
        for start in range(0, self.num_cells, _DIGEST_CELLS):
            block = matrix.block(start, start + _DIGEST_CELLS)
            for array in (block.data, block.indices, block.indptr):
                digest.update(f"{array.dtype} {array.shape}".encode())
                digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    @cached_property
    def obs(self) -> pd.DataFrame:
        """All columns of obs."""
        with damage_named(f"obs of {self.name}"):
            return self.frame("obs")

    @property
    def in_memory(self) -> bool:
        """Whether X is in memory, so that the whole of it costs nothing to read."""
        return False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


__all__ = ["Cells"]
