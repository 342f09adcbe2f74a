"""What the files of a model's folder say of the model. Nothing is guessed: what is not there is said to be missing."""

import csv
import hashlib
import importlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from state_hf.families import config_class, family_of


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; empty if there is no such file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file; none if there is no such file."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def family_in(folder: Path) -> str | None:
    """The family of the model in a folder; None if it is none of this package's."""
    return family_of(read_json(folder / "config.json"), read_json(folder / "tokenizer_config.json"))


def read_config(folder: Path) -> Any:
    """The configuration of the model in a folder; None if it is none of this package's."""
    # Imported here: the Auto classes bring the families, whose tokenizers bring this module.
    from transformers import AutoConfig

    family, model_type = family_in(folder), read_json(folder / "config.json").get("model_type")
    if family is None or model_type is None:
        return None
    known = config_class(model_type)
    # A family on a stock model has the stock model's configuration.
    return (known or AutoConfig).from_pretrained(folder)


def conversion_origin(record: dict[str, Any]) -> dict[str, Any]:
    """What a model keeps of the record of its conversion, however often it is trained since."""
    original = record.get("original") or {}
    known = {name: original[name] for name in ("file", "repository", "commit", "subfolder") if original.get(name)}
    return {"converted_by": record.get("converted_by"), "licence": record.get("licence"), "original": known}


def gene_list_digest(genes: Sequence[str]) -> str:
    """SHA-256 of a gene list: that of a file with one gene a line, such as `genes.txt`."""
    return hashlib.sha256("".join(f"{gene}\n" for gene in genes).encode()).hexdigest()


def family_words(family: str) -> Any:
    """The module of a family that says what its models are: its facts, citation, and the licence of its weights."""
    return importlib.import_module(f"state_hf.model_cards.{family}")


def feature_words(config: Any) -> str:
    """What the features are that a model of perturbed cells reads."""
    scale = {
        "log1p": "log1p-normalised expression",
        "counts": "raw counts",
        "embedding": "an embedding",
    }[str(config.feature_scale)]
    total = f" ({config.target_sum:g} counts a cell)" if config.target_sum else ""
    return f"{config.input_dim:,} features of `{config.feature_key}`: {scale}{total}"


def name_words(vocabulary: dict[str, Any]) -> dict[str, str]:
    """The rows of a card on the names that a model of perturbed cells knows."""
    if not vocabulary:
        return {"Names": "no `vocabulary.json` in this folder"}
    genes, cell_types = vocabulary.get("genes", []), vocabulary.get("cell_types", [])
    return {
        "Perturbations": f"{len(vocabulary['perturbations']):,}; control: `{vocabulary.get('control_perturbation')}`",
        "Cell types": names_in_words(cell_types) or "not recorded",
        "Genes": f"{len(genes):,}; SHA-256 of the list `{gene_list_digest(genes)}`" if genes else "not recorded",
    }


def names_in_words(names: Sequence[str], *, most: int = 8) -> str:
    """Some names as text, and how many more there are."""
    shown = ", ".join(map(str, names[:most]))
    return shown if len(names) <= most else f"{shown} and {len(names) - most:,} more"


def first_of(names: Sequence[str], most: int = 4) -> str:
    """The first of some names."""
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def training_time(folder: Path) -> float | None:
    """Seconds that the training took, where they were logged."""
    for place in (folder, folder / "checkpoints"):
        for name in ("train_results.json", "all_results.json"):
            seconds = read_json(place / name).get("train_runtime")
            if seconds is not None:
                return float(seconds)
    return None


def emissions(folder: Path) -> dict[str, Any] | None:
    """What codecarbon logged of a training, as the Hub's metadata has it: grams of CO2, where and on what."""
    rows = next((rows for place in (folder, folder / "checkpoints") if (rows := read_csv(place / "emissions.csv"))), [])
    if not rows:
        return None
    hardware = [rows[-1].get("gpu_model"), rows[-1].get("cpu_model")]
    return {
        "emissions": round(1000 * sum(float(row["emissions"]) for row in rows), 3),
        "source": "codecarbon",
        "geographical_location": rows[-1].get("country_name") or "unknown",
        "hardware_used": ", ".join(filter(None, hardware)) or "unknown",
    }


def evaluations(folder: Path) -> Iterator[dict[str, Any]]:
    """The evaluations that lie in a folder or in one below it."""
    for path in sorted([*folder.glob("evaluation.json"), *folder.glob("*/evaluation.json")]):
        yield {**read_json(path), "folder": path.parent.name if path.parent != folder else folder.name}


__all__ = [
    "conversion_origin",
    "emissions",
    "evaluations",
    "family_in",
    "family_words",
    "feature_words",
    "first_of",
    "gene_list_digest",
    "name_words",
    "names_in_words",
    "read_config",
    "read_json",
    "training_time",
]
