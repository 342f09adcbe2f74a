"""The differential expression table of a screen, by the rules of an evaluation profile."""

from collections import Counter
from pathlib import Path

import pandas as pd
from anndata import AnnData
from transformers.utils import logging

from state_hf.configuration.labels import as_label
from state_hf.configuration.perturbation_labels import common_names
from state_hf.data.cells.open_cells import open_cells
from state_hf.data.screens.screen_reading import labels_of, read_screens
from state_hf.metrics.profiles import Profile, load_profile
from state_hf.metrics.summary import de_table

logger = logging.get_logger(__name__)


def differential_expression(
    cells: AnnData | str | Path,
    profile: str | Profile = "vcc2025",
    *,
    perturbation_key: str = "perturbation",
    control: str | float = "non-targeting",
    device: str | None = None,
) -> pd.DataFrame:
    """Test every gene of every perturbation against the control cells.

    Two-sided Mann-Whitney U (normal approximation with tie correction), fold changes of means in count space, and
    Benjamini-Hochberg within each perturbation. The non-zero values are sorted once a gene for all perturbations.

    Args:
        cells: The screen: raw counts, or log1p-normalised values where the profile takes them.
        profile: Whose rules apply: `vcc2025` (log-normalised values, geometric means, continuity correction) or
            `vcc2026` (counts per million, arithmetic means, genes above 5 CPM in the control).
        perturbation_key: The obs column of perturbation labels.
        control: The label of the control cells.
        device: Torch device for the rank test, such as `cuda`; None for the CPU.

    Returns:
        One row a (perturbation, gene): target, feature, target_mean, ref_mean, target_membership, ref_membership,
        log2_fold_change, percent_change, p_value, statistic, fdr.

    Raises:
        ValueError: If the labels or values do not fit.
    """
    rule = load_profile(profile) if isinstance(profile, str) else profile
    opened, control = open_cells(cells).matrix("X"), as_label(control, "control")
    counts = Counter(labels_of(opened, perturbation_key).tolist())
    names, notes = common_names(counts, control=control)
    for note in notes:
        logger.warning(note)
    screen = read_screens(opened, perturbation_key=perturbation_key, control=control, cell_type_key=None, names=names)[
        ""
    ]
    return de_table(screen, rule, device=device).to_frame()
