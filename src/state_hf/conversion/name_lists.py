"""Names of genes and perturbations from the files in which users have them."""

from pathlib import Path

from anndata.io import read_elem

from state_hf.conversion.errors import CheckpointError
from state_hf.data.cells.damage import damage_named, open_hdf5


def read_names(path: Path, what: str) -> list[str]:
    """The lines of a text file.

    Raises:
        CheckpointError: If there are none.
    """
    names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not names:
        raise CheckpointError(f"{path} names no {what}.")
    return names


def read_gene_names(path: Path, count: int) -> list[str]:
    """Names of genes from a list, one a line, or from an AnnData file.

    Of an AnnData file, they are the first of these that are `count`: the names beside `obsm["X_hvg"]`
    (`uns["X_hvg"]["var_names"]`), those of highly variable genes (`var["highly_variable"]`), all.

    Args:
        path: A text file, or an `.h5ad`.
        count: Number of genes that the model has.

    Raises:
        CheckpointError: If the file names another number of genes.
    """
    candidates = _genes_of_anndata(path) if path.suffix == ".h5ad" else {"lines": read_names(path, "genes")}
    for names in candidates.values():
        if len(names) == count:
            return names
    found = ", ".join(f"{len(names)} ({place})" for place, names in candidates.items())
    raise CheckpointError(f"The model has {count} genes, but {path} names {found}.")


def _genes_of_anndata(path: Path) -> dict[str, list[str]]:
    candidates: dict[str, list[str]] = {}
    with damage_named(str(path)), open_hdf5(path) as file:
        var = read_elem(file["var"])
        if "uns" in file and "X_hvg" in file["uns"] and "var_names" in file["uns"]["X_hvg"]:
            candidates["uns['X_hvg']['var_names']"] = [str(name) for name in read_elem(file["uns/X_hvg/var_names"])]
    if "highly_variable" in var:
        candidates["var['highly_variable']"] = var.index[var["highly_variable"].to_numpy(bool)].astype(str).tolist()
    candidates["var"] = var.index.astype(str).tolist()
    return candidates


__all__ = ["read_gene_names", "read_names"]
