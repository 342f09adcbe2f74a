"""Writes the README.md of a model's folder."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers.utils import logging
from yaml import YAMLError

from state_hf.families import FAMILIES, READERS
from state_hf.model_cards.facts import (
    conversion_origin,
    emissions,
    evaluations,
    family_in,
    family_words,
    read_config,
    read_csv,
    read_json,
    training_time,
)

logger = logging.get_logger(__name__)

_BEGIN = "<!-- Written by state-hf from the files of this folder, up to the end mark. Text outside of it is kept. -->"
_END = "<!-- End of what state-hf wrote. -->"
_CONVERTED_NOTE = (
    "The weights keep the licence of the checkpoint that they, or those that they were trained from, were converted "
    "from."
)
_TASK = "perturbation-prediction"
# Of a column of scores.csv with standard errors of the one before it.
_ERROR = "_se"


def write_model_card(folder: str | Path, *, name: str | None = None, tags: Iterable[str] = ()) -> Path | None:
    """Write a folder's `README.md` from its configuration, names, split, scores and evaluations.

    A card that somebody else wrote stays as it is. In one that was written here before, only the part between the marks
    and the metadata of this package change; text around it, and other metadata, are kept.

    Args:
        folder: The folder of a saved model.
        name: What the model is called in the card, e.g. its id on the Hub. Default: as before, or the folder's name.
        tags: More tags for the metadata.

    Returns:
        The card's path; None if the folder holds no model of this package, or a card of somebody else's.
    """
    folder = Path(folder)
    family, config = family_in(folder), read_config(folder)
    if family is None or config is None:
        return None
    path = folder / "README.md"
    existing = _own_card(path)
    if existing is None and path.is_file():
        logger.info(f"{path} is not a card of state-hf's, so it stays as it is.")
        return None
    before, after = _around(existing.text) if existing is not None else ("", "")
    known: dict[str, Any] = existing.data.to_dict() if existing is not None else {}
    name = name or known.pop("model_name", None) or folder.resolve().name
    data = _metadata(family, config, folder, name, known, tags)
    template = Path(__file__).with_name(f"{family}.md")
    made = ModelCard.from_template(
        data,
        template_path=str(template),
        name=name,
        config=config,
        facts=_table(["", ""], family_words(family).facts(config, folder).items()),
        example_perturbation=_example(folder),
        training=_training(config, folder),
        evaluation=_evaluation(folder),
        licence=_licence(family, config, folder, data),
        citation=family_words(family).CITATION,
    )
    body = re.sub(r"\n{3,}", "\n\n", made.text).strip()
    card = ModelCard(f"---\n{data.to_yaml()}\n---\n{before}\n{_BEGIN}\n\n{body}\n\n{_END}\n{after}")
    unfinished = path.with_name(".writing-README.md")
    card.save(unfinished)
    unfinished.replace(path)
    return path


def is_written_by_hand(path: Path) -> bool:
    """Whether a card is somebody's own, or has text of theirs around what was written here."""
    own = _own_card(path)
    return own is None or any(_around(own.text))


def _own_card(path: Path) -> ModelCard | None:
    """The card that was written here; None if there is none, or one of somebody else's, or a broken one."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    try:
        return ModelCard(text) if _BEGIN in text else None
    except (ValueError, YAMLError):
        # What a training ends with is to be saved, whatever became of the card's metadata.
        logger.warning(f"The metadata of {path} cannot be read, so the card stays as it is.")
        return None


def _around(text: str) -> tuple[str, str]:
    before, _, rest = text.partition(_BEGIN)
    return before.strip("\n"), rest.partition(_END)[2].lstrip("\n")


def _metadata(
    family: str, config: Any, folder: Path, name: str, known: dict[str, Any], tags: Iterable[str]
) -> ModelCardData:
    own = ["state-hf", "biology", "single-cell", family.replace("_", "-")]
    fields: dict[str, Any] = {
        **known,
        "library_name": "transformers",
        "tags": list(dict.fromkeys([*own, *known.get("tags", []), *tags])),
    }
    if any(role in FAMILIES[family] for role in READERS):
        fields["pipeline_tag"] = "feature-extraction"
    origin = _origin(config, folder)
    if origin:
        fields |= family_words(family).LICENCE
        repository = (origin.get("original") or {}).get("repository")
        fields |= {"base_model": repository} if repository else {}
        files = _licence_files(folder)
        fields |= {"license_link": files[0]} if files else {}
    logged = emissions(folder)
    if logged is not None:
        fields["co2_eq_emissions"] = logged
    results = list(_results(folder))
    if results:
        fields.pop("model-index", None)
        fields |= {"model_name": name, "eval_results": results}
    return ModelCardData(ignore_metadata_errors=True, **fields)


def _results(folder: Path) -> Iterable[EvalResult]:
    """The scores of the training's held-out cells, and every evaluation by a profile of the challenge."""
    for row in read_csv(folder / "scores.csv"):
        if row["model"] == "state_transition":
            for metric, value in row.items():
                if metric != "model" and not metric.endswith(_ERROR) and value:
                    yield EvalResult(
                        task_type=_TASK,
                        dataset_type="held-out",
                        dataset_name="held-out cells of the training's split",
                        metric_type=metric,
                        metric_name=metric,
                        metric_value=float(value),
                    )
    for evaluation in evaluations(folder):
        settings = evaluation["settings"]
        for metric, value in evaluation["values"].items():
            if value is not None:
                yield EvalResult(
                    task_type=_TASK,
                    dataset_type=evaluation["folder"],
                    dataset_name=f"{evaluation['folder']}: {settings['profile']}",
                    metric_type=metric,
                    metric_name=metric,
                    metric_value=value,
                    metric_args={"profile": settings["profile"], "profile_sha256": settings["digest"]},
                )


def _training(config: Any, folder: Path) -> str:
    split, audit = read_json(folder / "split.json"), read_csv(folder / "split.csv")
    lines = ["## Training data and split", ""]
    if not split:
        lines.append("Not recorded in this folder.")
    else:
        lines.append(
            f"Which cells trained the model is in `split.json` (seed {split['seed']}); controls: {split['controls']}."
        )
        columns = ["part", "dataset", "cell_type", "perturbations", "perturbed_cells", "control_cells"]
        columns = [column for column in columns if audit and column in audit[0]]
        lines += ["", _table(columns, [[row[column] for column in columns] for row in audit[:30]])]
        lines += [f"\nand {len(audit) - 30} more rows in `split.csv`"] if len(audit) > 30 else []
    origin = _origin(config, folder)
    if origin:
        notes = read_json(folder / "conversion.json").get("notes", [])
        lines += ["", _origin_text(origin), "", *(f"- {note}" for note in notes)]
    seconds, logged = training_time(folder), emissions(folder)
    lines += ["", f"Training took {seconds / 3600:.2f} hours."] if seconds is not None else []
    if logged is not None:
        lines += ["", f"It emitted about {logged['emissions']:g} g of CO2 ({logged['hardware_used']})."]
    return "\n".join(lines)


def _evaluation(folder: Path) -> str:
    lines = ["## Evaluation"]
    scores = read_csv(folder / "scores.csv")
    if scores:
        metrics = [name for name in scores[0] if name != "model" and not name.endswith(_ERROR)]
        rows = [[row["model"], *(_with_error(row, metric) for metric in metrics)] for row in scores]
        told = "Held-out cells of the split, with the baselines (± standard error over perturbations):"
        lines += ["", told, "", _table(["model", *metrics], rows)]
    for evaluation in evaluations(folder):
        settings = evaluation["settings"]
        values = [[metric, f"{value:.4g}"] for metric, value in evaluation["values"].items() if value is not None]
        lines += ["", f"`{evaluation['folder']}`, profile {settings['profile']} (SHA-256 `{settings['digest']}`):"]
        lines += ["", _table(["metric", "value"], values)]
    if len(lines) == 1:
        lines += ["", "None recorded in this folder. `state-hf evaluate ... --output MODEL/evaluation` records one."]
    return "\n".join(lines)


def _with_error(row: dict[str, str], metric: str) -> str:
    """A score, and its standard error where the table has one."""
    shown = [f"{float(row[name]):.4g}" for name in (metric, f"{metric}{_ERROR}") if row.get(name)]
    return " ± ".join(shown)


def _origin(config: Any, folder: Path) -> dict[str, Any]:
    """Which conversion the weights are from; empty for those that are from none."""
    record = folder / "conversion.json"
    return getattr(config, "converted_from", None) or (conversion_origin(read_json(record)) if record.is_file() else {})


def _origin_text(origin: dict[str, Any]) -> str:
    original = origin.get("original") or {}
    file = f"`{original['file']}`" if "file" in original else "an original checkpoint"
    if "repository" in original:
        within = f" in `{original['subfolder']}`" if "subfolder" in original else ""
        file += f"{within} of `{original['repository']}`, commit `{original['commit']}`"
    return f"The weights are, or were trained from, those of {file}, converted by {origin.get('converted_by')}."


def _licence_files(folder: Path) -> list[str]:
    listed = read_json(folder / "conversion.json").get("licence", {}).get("files", [])
    return [name for name in listed if (folder / name).is_file()]


def _licence(family: str, config: Any, folder: Path, data: ModelCardData) -> str:
    lines = ["## Licence", ""]
    if _origin(config, folder):
        files = ", ".join(f"[{name}]({name})" for name in _licence_files(folder))
        where = f"Its text: {files}." if files else "Its text is where they were published."
        lines.append(f"{_CONVERTED_NOTE} {family_words(family).LICENCE_NOTE} {where}")
    elif data.get("license"):
        lines.append(f"`{data.get('license')}`, as the metadata of this card say.")
    else:
        lines.append("No licence was chosen for these weights: set `license:` in the metadata of this card.")
    lines.append("\nThe code, state-hf, is Apache-2.0.")
    return "\n".join(lines)


def _example(folder: Path) -> str:
    vocabulary = read_json(folder / "vocabulary.json")
    control = vocabulary.get("control_perturbation")
    return next((name for name in vocabulary.get("perturbations", []) if name != control), "TP53")


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


__all__ = ["is_written_by_hand", "write_model_card"]
