"""Are the genes called with confidence called in the right direction? (2026 challenge)

All functions take arrays of perturbations x genes, without the genes to leave out, and return one value a perturbation;
NaN where the measure is undefined for it. A gene is adjudicable where the real fold change is defined and not zero
(infinite ones have a sign too).
"""

import numpy as np


def direction_fidelity_yield(
    significant_reference: np.ndarray,
    significant_prediction: np.ndarray,
    change_reference: np.ndarray,
    change_prediction: np.ndarray,
) -> np.ndarray:
    """Correctly signed calls, over the larger of the numbers of predicted calls and real DE genes.

    Returns:
        Values in [0, 1], best 1; NaN where neither side calls a gene.
    """
    adjudicable = _adjudicable(change_reference)
    called = significant_prediction & adjudicable
    right = called & _right_sign(change_reference, change_prediction)
    most = np.maximum(called.sum(axis=1), significant_reference.sum(axis=1))
    return np.divide(right.sum(axis=1), most, out=np.full(len(most), np.nan), where=most > 0)


def direction_reach(
    significant_reference: np.ndarray,
    change_reference: np.ndarray,
    change_prediction: np.ndarray,
    significant_prediction: np.ndarray,
    fdr_prediction: np.ndarray,
    p_prediction: np.ndarray,
    gene_names: np.ndarray,
    *,
    purity: float,
) -> np.ndarray:
    """How far down the prediction's own order of confidence the signs of the real DE genes stay right.

    The order: its calls first, then ascending adjusted p, ascending p, descending absolute fold change, name.

    Args:
        significant_reference: Real calls, P x G.
        change_reference: Real log2 fold changes, P x G.
        change_prediction: Predicted log2 fold changes, P x G.
        significant_prediction: Predicted calls, P x G.
        fdr_prediction: Predicted adjusted p-values, P x G.
        p_prediction: Predicted p-values, P x G; a gene that the prediction's table lacks (NaN) is not in the order.
        gene_names: Names (G), the last criterion.
        purity: Share of right signs that a prefix must keep.

    Returns:
        Length of the longest such prefix over the number of real DE genes, in [0, 1]; NaN where there are none.
    """
    adjudicable = _adjudicable(change_reference)
    right = _right_sign(change_reference, change_prediction)
    by_name = np.argsort(np.argsort(gene_names.astype(str), kind="stable"))
    values = np.full(len(change_reference), np.nan)
    for row, real in enumerate(significant_reference):
        if not real.any():
            continue
        genes = np.flatnonzero(real & adjudicable[row] & ~np.isnan(p_prediction[row]))
        keys = (
            by_name[genes],
            -np.abs(change_prediction[row, genes]),
            p_prediction[row, genes],
            fdr_prediction[row, genes],
            ~significant_prediction[row, genes],
        )
        ordered = right[row, genes[np.lexsort(keys)]]
        depth = np.arange(1, len(genes) + 1)
        pure = depth[ordered.cumsum() / depth >= purity]
        values[row] = pure.max(initial=0) / real.sum()
    return values


def _adjudicable(change: np.ndarray) -> np.ndarray:
    return ~np.isnan(change) & (change != 0)


def _right_sign(change_reference: np.ndarray, change_prediction: np.ndarray) -> np.ndarray:
    committed = ~np.isnan(change_prediction) & (change_prediction != 0)
    return committed & (np.sign(change_reference) == np.sign(change_prediction))
