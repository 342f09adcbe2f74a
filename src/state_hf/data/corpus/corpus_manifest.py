"""The list of files that make up a corpus."""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from state_hf.data.cells.locations import is_url
from state_hf.tokenization.text_files import text_lines

_COLUMNS = ("path", "dataset", "species", "gene_column", "scale", "layer")
_DEFAULTS = {"species": "human", "scale": "counts"}


@dataclass(frozen=True)
class CorpusFile:
    """One file of a corpus.

    Attributes:
        path: The .h5ad file or .zarr store, its URL, or a .parquet file of `state-hf tokenize`.
        dataset: Name of the dataset it belongs to, the class that the dataset classifier learns.
        species: Species of the cells, as the user calls it.
        gene_column: Column of `var` with the gene names, or None to find the best one.
        scale: "counts" or "log1p".
        layer: Layer to read, or "raw"; None for X.
    """

    path: str
    dataset: str
    species: str = "human"
    gene_column: str | None = None
    scale: Literal["counts", "log1p"] = "counts"
    layer: str | None = None


def read_manifest(path: str | Path) -> list[CorpusFile]:
    """Read a manifest: a table, comma-separated (.csv) or tab-separated (.tsv), one file a row.

    Only the column `path` is needed; `dataset` (default: the file's name), `species` (human), `gene_column` (found),
    `scale` (counts) and `layer` (X) may follow. Paths are relative to the manifest, or URLs.

    Raises:
        ValueError: There is no such column, a column that is unknown, a wrong scale, or a file twice.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no manifest {path}.")
    with text_lines(path) as lines:
        table = csv.reader(lines, delimiter="\t" if path.suffix == ".tsv" else ",", skipinitialspace=True, strict=True)
        rows = [(table.line_num, row) for row in table if row]
    columns = rows[0][1] if rows else []
    unknown = [column for column in columns if column not in _COLUMNS]
    if unknown or "path" not in columns or len(set(columns)) < len(columns):
        problem = f"the unknown column {unknown[0]!r}" if unknown else "no column 'path', or a column twice"
        raise ValueError(f"{path} has {problem}; the columns of a manifest are {', '.join(_COLUMNS)}")
    files = []
    for line, row in rows[1:]:
        if len(row) > len(columns):
            raise ValueError(f"{path}, line {line}: there are {len(row)} fields for {len(columns)} columns")
        given = {name: value for name, value in zip(columns, row, strict=False) if value}
        if "path" not in given:
            raise ValueError(f"{path}, line {line}: there is no path")
        source = given.pop("path")
        given["path"] = source if is_url(source) else str(path.parent / source)
        given.setdefault("dataset", Path(source).stem)
        fields = {**_DEFAULTS, **given}
        if fields["scale"] not in ("counts", "log1p"):
            raise ValueError(f"{path}, line {line}: the scale is {fields['scale']!r}; it has to be counts or log1p")
        files.append(CorpusFile(**fields))  # type: ignore[arg-type]
    seen: set[tuple[str, str | None]] = set()
    for file in files:
        if (file.path, file.layer) in seen:
            raise ValueError(f"{path} names {file.path} twice")
        seen.add((file.path, file.layer))
    if not files:
        raise ValueError(f"{path} names no files")
    return files


__all__ = ["CorpusFile", "read_manifest"]
