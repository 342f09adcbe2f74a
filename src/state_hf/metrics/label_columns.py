"""Columns of labels: every cell's label as the code of a text, and how many cells have none."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pandas as pd

from state_hf.configuration.labels import label_text


@dataclass(frozen=True, eq=False)
class LabelColumn:
    """The labels of cells.

    Attributes:
        codes: (cells,) int64, index into `labels`; -1 where a cell has none.
        labels: The labels that cells have, in the order in which the column lists or first has them.
        declared: Categories of the column that no cell has.
        missing_texts: Cells without a label whose place holds a text, as "nan", by that text.
    """

    codes: np.ndarray
    labels: list[str]
    declared: list[str]
    missing_texts: dict[str, int]

    @property
    def unlabelled(self) -> int:
        """Number of cells without a label."""
        return int((self.codes < 0).sum())

    @property
    def counts(self) -> Counter[str]:
        """Number of cells of every label."""
        numbers = np.bincount(self.codes[self.codes >= 0], minlength=len(self.labels))
        return Counter(dict(zip(self.labels, numbers.tolist(), strict=True)))

    @property
    def texts(self) -> np.ndarray:
        """(cells,) object: every cell's label, None where it has none."""
        return np.array([*self.labels, None], dtype=object)[self.codes]

    def missing(self) -> str:
        """What a message adds about cells without a label: the texts that stand in their places, if any."""
        texts = ", ".join(f"{text!r} {count:,}" for text, count in self.missing_texts.items())
        return f"; texts that stand for no label: {texts}" if texts else ""


def read_label_column(column: pd.Series) -> LabelColumn:
    """Labels of a column of any type, by `label_text`: values with one text are one label.

    Args:
        column: Categories, texts, numbers, booleans, or a mixture.
    """
    values, codes = _distinct(column)
    texts = [label_text(value) for value in values]
    present = np.bincount(codes[codes >= 0], minlength=len(texts)) > 0
    labels: dict[str, int] = {}
    for text, here in zip(texts, present, strict=True):
        if text is not None and here:
            labels.setdefault(text, len(labels))
    renumbered = np.array([-1 if text is None else labels.get(text, -1) for text in texts] + [-1], dtype=np.int64)
    declared = [text for text, here in zip(texts, present, strict=True) if text is not None and text not in labels]
    empty = [place for place, text in enumerate(texts) if text is None and isinstance(values[place], str)]
    missing = {str(values[place]): int((codes == place).sum()) for place in empty if present[place]}
    return LabelColumn(renumbered[codes], list(labels), list(dict.fromkeys(declared)), missing)


def labels_or_error(column: pd.Series, place: str) -> LabelColumn:
    """`read_label_column` where every cell needs a label.

    Args:
        column: The column.
        place: What the message calls it, as "obs['perturbation'] of a.h5ad".

    Raises:
        ValueError: Cells have none; the message counts them, and the texts that stand in their places.
    """
    read = read_label_column(column)
    if read.unlabelled:
        first = int(np.flatnonzero(read.codes < 0)[0])
        raise ValueError(
            f"{place} has no label for {read.unlabelled:,} of {len(read.codes):,} cells (the first is cell {first}"
            f"{read.missing()}); label or remove them"
        )
    return read


def _distinct(column: pd.Series) -> tuple[list[object], np.ndarray]:
    """Values of a column, and every cell's place among them; -1 where pandas has none."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        return list(column.cat.categories), column.cat.codes.to_numpy().astype(np.int64)
    if column.dtype == object and pd.api.types.infer_dtype(column, skipna=True) != "string":
        # 1, 1.0 and True are equal, and so one value to pandas.
        texts = [value if isinstance(value, str) else label_text(value) for value in column]
        column = pd.Series(texts, dtype=object)
    codes, values = pd.factorize(column)
    return list(values), codes.astype(np.int64)


__all__ = ["LabelColumn", "labels_or_error", "read_label_column"]
