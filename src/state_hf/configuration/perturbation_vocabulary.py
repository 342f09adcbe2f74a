"""The names behind a State Transition model's numbers."""

import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from state_hf.configuration.labels import label_text
from state_hf.configuration.near_names import nearest
from state_hf.configuration.perturbation_labels import PerturbationNames
from state_hf.configuration.wording import listed


@dataclass(frozen=True)
class PerturbationVocabulary:
    """Perturbations, batches, cell types and genes of a model, in the order of its rows and columns.

    It is saved beside the weights as `vocabulary.json`.

    Args:
        perturbations: Name of each row of the perturbation encoder.
        control_perturbation: Which of them is the control.
        batches: Name of each batch id.
        cell_types: Cell types that the model was trained on. The model itself does not read them.
        genes: Name of each column of the predicted expression.

    Raises:
        ValueError: If a name occurs twice, or the control is not one of the perturbations.
    """

    perturbations: Sequence[str]
    control_perturbation: str | None = None
    batches: Sequence[str] = ()
    cell_types: Sequence[str] = ()
    genes: Sequence[str] = ()

    FILE_NAME = "vocabulary.json"

    def __post_init__(self) -> None:
        for name in ("perturbations", "batches", "cell_types", "genes"):
            values = tuple(getattr(self, name))
            if isinstance(getattr(self, name), str) or not all(isinstance(value, str) for value in values):
                raise ValueError(f"The vocabulary's {name} are not a list of names.")
            object.__setattr__(self, name, values)
            twice = [value for value, count in Counter(values).items() if count > 1]
            if twice:
                raise ValueError(f"The vocabulary's {name} repeat {listed(twice, limit=5)}.")
        if self.control_perturbation is not None and self.control_perturbation not in self.perturbations:
            raise ValueError(
                f"The control {self.control_perturbation!r} is not one of the vocabulary's "
                f"{len(self.perturbations)} perturbations."
            )
        object.__setattr__(self, "_perturbation_ids", {name: i for i, name in enumerate(self.perturbations)})
        names = PerturbationNames(self.perturbations, control=self.control_perturbation)
        object.__setattr__(self, "_perturbation_names", names)
        object.__setattr__(self, "_batch_ids", {name: i for i, name in enumerate(self.batches)})

    @property
    def perturbation_names(self) -> PerturbationNames:
        """Finds the model's names of perturbations, whatever their spelling ("B+A", "A+B+ctrl")."""
        return self._perturbation_names  # type: ignore[attr-defined]

    def perturbation_id(self, name: str | float) -> int:
        """Row of a perturbation, whatever the spelling of its name ("B+A" for "A+B", "A+ctrl" for "A").

        Raises:
            ValueError: If the model does not know it; the message has the nearest known names.
        """
        return self.perturbation_ids([name])[0]

    def perturbation_ids(self, names: Iterable[str | float]) -> list[int]:
        """Rows of perturbations, see `perturbation_id`."""
        known: dict[str, int] = self._perturbation_ids  # type: ignore[attr-defined]
        found = [(name, self.perturbation_names.find(name)) for name in names]
        _refuse_unknown([name for name, known_as in found if known_as is None], list(known), "perturbation")
        return [known[known_as] for _, known_as in found if known_as is not None]

    def batch_id(self, name: str | float) -> int:
        """Number of a batch.

        Raises:
            ValueError: If the model does not know it; the message has the nearest known names.
        """
        return self.batch_ids([name])[0]

    def batch_ids(self, names: Iterable[str | float]) -> list[int]:
        """Numbers of batches, see `batch_id`."""
        known: dict[str, int] = self._batch_ids  # type: ignore[attr-defined]
        texts = [label_text(name) or str(name) for name in names]
        _refuse_unknown([text for text in texts if text not in known], list(known), "batch")
        return [known[text] for text in texts]

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Write `vocabulary.json` into a folder."""
        path = Path(directory, self.FILE_NAME)
        unfinished = path.with_suffix(".json.tmp")
        unfinished.write_text(json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        unfinished.replace(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "PerturbationVocabulary":
        """Read a `vocabulary.json`.

        Raises:
            ValueError: If the file does not hold a vocabulary.
        """
        try:
            content: Any = json.loads(Path(path).read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is not JSON: {error}") from error
        known = {field.name for field in fields(cls)}
        if not isinstance(content, dict) or "perturbations" not in content or not content.keys() <= known:
            raise ValueError(
                f"{path} is not a vocabulary: expected an object with the keys {', '.join(sorted(known))}."
            )
        try:
            return cls(**content)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path} is not a vocabulary: {error}") from error


def _refuse_unknown(names: Iterable[Any], known: Sequence[str], kind: str) -> None:
    unknown = [str(name) for name in dict.fromkeys(names)]
    if unknown:
        which = f"for {unknown[0]!r}, " if len(unknown) > 1 else ""
        kinds = "batches" if kind == "batch" else f"{kind}s"
        raise ValueError(
            f"The model knows {len(known)} {kinds}, and not {listed(unknown, limit=5)}; "
            f"{which}{nearest(unknown[0], known)}"
        )


__all__ = ["PerturbationVocabulary"]
