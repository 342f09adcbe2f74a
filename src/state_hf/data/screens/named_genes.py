"""Whether a slot of expression says which gene each of its columns is."""

from state_hf.configuration.advice import Advised
from state_hf.data.cells.stored_matrix import CellMatrix


def check_named_genes(matrix: CellMatrix, *ways: str) -> None:
    """Refuse expression whose columns nobody named: a model finds genes by their names.

    Only a matrix in obsm can be without names; those of X and of layers are in var.

    Args:
        matrix: The expression.
        ways: What else the user can do, see `Advised`.

    Raises:
        ValueError: The columns have no names; the message says where to record them.
    """
    if matrix.feature_names is not None:
        return
    key = matrix.slot.partition("/")[2]
    var = matrix.cells.frame("var")
    record = f"record their names in order (adata.uns[{key!r}] = {{'var_names': [...]}})"
    if "highly_variable" in var and int(var["highly_variable"].sum()) == matrix.num_features:
        record = (
            f"record their names; if they are the genes that var['highly_variable'] marks, which are as many, adata.uns"
            f"[{key!r}] = {{'var_names': adata.var_names[adata.var['highly_variable']].to_numpy()}}"
        )
    problem = (
        f"{matrix.place} has {matrix.num_features:,} columns and does not say which genes they are (there is no "
        f"uns[{key!r}]['var_names'])"
    )
    raise ValueError(Advised(problem, record, "make the file anew (`state-hf preprocess`)", *ways))


__all__ = ["check_named_genes"]
