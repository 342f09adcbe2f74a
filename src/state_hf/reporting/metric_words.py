"""What metrics and diagnostics mean, in words for a reader."""

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

SIZES = ("n_perturbations", "n_genes", "n_cells_prediction", "n_cells_reference")
"""The settings that say how much was compared."""

QUANTITIES = {
    "n_perturbations": "perturbations",
    "n_genes": "genes",
    "n_cells_prediction": "predicted cells",
    "n_cells_reference": "measured cells",
    "share_nearly_identical_predictions": "share of predictions that are nearly identical (0 is right)",
    "median_effect_size_ratio": "predicted over real effect size, median (1 is right)",
    "median_variance_ratio": "predicted over real variance of cells, median (1 is right)",
    "median_depth_ratio": "predicted over measured genes detected in a cell, median (1 is right)",
    "control_total_ratio": "predicted over measured total of a control cell, median (1 is right)",
    "de_genes_prediction": "DE genes called in the prediction",
    "de_genes_reference": "DE genes called in the measured cells",
}


def measure(function: str) -> str:
    """The sentence for a metric function; empty for one that has none."""
    return MEASURES.get(function, "")


def aim(best: float | None) -> str:
    """Which way a metric improves."""
    if best is None:
        return "a count, neither good nor bad"
    return f"best {best:g}, {'lower' if best == 0 else 'higher'} is better"
