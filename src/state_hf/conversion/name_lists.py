"""Names of genes and perturbations from the files in which users have them."""

from pathlib import Path

from state_hf.conversion.errors import CheckpointError
from state_hf.data.cells.open_cells import open_cells


def read_names(path: Path, what: str) -> list[str]:
    """The lines of a text file.

    Raises:
        CheckpointError: If there are none.
    """
    names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not names:
        raise CheckpointError(f"{path} names no {what}.")
    return names


def is_name_list(path: Path) -> bool:
    """Whether a file is a list of names, and not one of cells."""
    return path.is_file() and path.suffix.lower() in ("", ".txt", ".csv", ".tsv")


def read_gene_names(path: Path, count: int) -> list[str]:
    """Names of genes from a list, one a line, or from a file of cells.

    Of a file of cells, they are the first of these that are `count`: the names beside `obsm["X_hvg"]`
    (`uns["X_hvg"]["var_names"]`), those of highly variable genes (`var["highly_variable"]`), all.

    Args:
        path: A text file (.txt, .csv, .tsv, or without a suffix), or what `open_cells` takes.
        count: Number of genes that the model has.

    Raises:
        CheckpointError: If the file names another number of genes.
    """
    candidates = {"lines": read_names(path, "genes")} if is_name_list(path) else _genes_of_cells(path)
    for names in candidates.values():
        if len(names) == count:
            return names
    found = ", ".join(f"{len(names)} ({place})" for place, names in candidates.items())
    raise CheckpointError(f"The model has {count} genes, but {path} names {found}.")


def _genes_of_cells(path: Path) -> dict[str, list[str]]:
    candidates: dict[str, list[str]] = {}
    with open_cells(path) as cells:
        var, variable = cells.frame("var"), cells.embedding_names("X_hvg")
    if variable is not None:
        candidates["uns['X_hvg']['var_names']"] = [str(name) for name in variable]
    if "highly_variable" in var:
        candidates["var['highly_variable']"] = var.index[var["highly_variable"].to_numpy(bool)].astype(str).tolist()
    candidates["var"] = var.index.astype(str).tolist()
    return candidates


__all__ = ["is_name_list", "read_gene_names", "read_names"]
