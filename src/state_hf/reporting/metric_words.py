"""What each metric function measures, in one sentence for a reader."""

MEASURES = {
    "mean_absolute_error": "Mean absolute difference of predicted and real expression over genes.",
    "mean_squared_error": "Mean squared difference of predicted and real expression over genes.",
    "pearson": "Pearson correlation of predicted and real effects over genes.",
    "unbiased_capped_error": "Squared error of the mean profiles without its noise, over the size of the real effects.",
    "discrimination": "Whether a predicted effect lies closer to its own real effect than to those of the others.",
    "discrimination_rank": "How many real perturbations lie closer to the prediction than the right one.",
    "energy_distance_correlation": "Correlation, over perturbations, of predicted and real distances from control.",
    "most_significant_overlap": "Share of the real DE genes that are among the most significant predicted.",
    "overlap": "Share of the strongest real DE genes that are among the strongest predicted.",
    "precision": "Share of the strongest predicted DE genes that are among the strongest real.",
    "significant_count_correlation": "Rank correlation, over perturbations, of the numbers of DE genes.",
    "direction_match": "Share of real DE genes that are predicted to move the right way.",
    "direction_fidelity_yield": "Called genes that move the right way, over the larger of predicted and real calls.",
    "direction_reach": "How far down the prediction's own order of confidence nine in ten directions are right.",
    "fold_change_correlation": "Rank correlation of fold changes over the real DE genes.",
    "fold_change_error": "Absolute error of fold changes over the real DE genes, relative to their size.",
    "significant_recall": "Share of real DE genes that the prediction calls too.",
    "significant_jaccard": "Genes called on both sides over genes called on either.",
    "significant_count": "Number of DE genes called.",
    "precision_recall_auc": "Area under the precision-recall curve for finding the real DE genes.",
    "roc_auc": "Area under the ROC curve for finding the real DE genes.",
    "clustering_agreement": "Agreement of the clusters of perturbations found in prediction and reality.",
}


def measure(function: str) -> str:
    """The sentence for a metric function; empty for one that has none."""
    return MEASURES.get(function, "")


def aim(best: float | None) -> str:
    """Which way a metric improves."""
    if best is None:
        return "a count, neither good nor bad"
    return f"best {best:g}, {'lower' if best == 0 else 'higher'} is better"
