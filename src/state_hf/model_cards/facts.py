"""What the files of a model's folder say of the model. Nothing is guessed: what is not there is said to be missing."""

import csv
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from state_hf.configuration.perturbation_baseline import PerturbationBaselineConfig
from state_hf.configuration.state_embedding import StateEmbeddingConfig
from state_hf.configuration.state_transition import StateTransitionConfig

Config = StateEmbeddingConfig | StateTransitionConfig | PerturbationBaselineConfig

_CONFIGS: dict[str, type[Config]] = {
    config.model_type: config for config in (StateEmbeddingConfig, StateTransitionConfig, PerturbationBaselineConfig)
}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; empty if there is no such file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file; none if there is no such file."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def read_config(folder: Path) -> Config | None:
    """The configuration of the model in a folder; None if it is none of this package's."""
    family = _CONFIGS.get(read_json(folder / "config.json").get("model_type", ""))
    return None if family is None else family.from_pretrained(folder)


def conversion_origin(record: dict[str, Any]) -> dict[str, Any]:
    """What a model keeps of the record of its conversion, however often it is trained since."""
    original = record.get("original") or {}
    known = {name: original[name] for name in ("file", "repository", "commit", "subfolder") if original.get(name)}
    return {"converted_by": record.get("converted_by"), "licence": record.get("licence"), "original": known}


def gene_list_digest(genes: Sequence[str]) -> str:
    """SHA-256 of a gene list: that of a file with one gene a line, such as `genes.txt`."""
    return hashlib.sha256("".join(f"{gene}\n" for gene in genes).encode()).hexdigest()


def model_facts(config: Config, folder: Path) -> dict[str, str]:
    """The rows of a card's table of facts."""
    if isinstance(config, StateEmbeddingConfig):
        return _embedding_facts(config, folder)
    vocabulary = read_json(folder / "vocabulary.json")
    facts = {"Input": _features(config), **_names(vocabulary)}
    if isinstance(config, StateTransitionConfig):
        facts["Attention"] = _attention(config)
        facts["Architecture"] = (
            f"{config.backbone}, {config.num_hidden_layers} layers of width {config.hidden_size}, sets of up to "
            f"{config.cell_set_length} cells"
        )
        facts["Output"] = f"{config.output_dim:,} features on the same scale" + (
            f", decoded to {config.gene_dim:,} genes ({config.gene_decoder})" if config.gene_decoder else ""
        )
        if config.effect_scale < 1:
            facts["Effects"] = (
                f"validation cells show {config.effect_scale:.2g} of them, so tilted predictions multiply them by that"
            )
    return facts


def _embedding_facts(config: StateEmbeddingConfig, folder: Path) -> dict[str, str]:
    genes = folder / "genes.txt"
    listed = genes.read_text(encoding="utf-8").split() if genes.is_file() else []
    digest = "the list is not in this folder"
    if len(listed) == config.num_genes:
        digest = f"SHA-256 of `genes.txt` `{gene_list_digest(listed)}`"
    dataset = f", then {config.dataset_embedding_dim} of the dataset" if config.use_dataset_token else ""
    record = read_json(folder / "gene_table.json")
    made = f" from {record['model']}" if record.get("model") else ""
    fill = {
        "none": "expressed genes alone",
        "original": "filled up with unexpressed ones, drawn for every cell anew",
    }.get(
        read_json(folder / "tokenizer_config.json").get("fill", ""),
        "filled up with unexpressed ones in a seeded order (the original: at random)",
    )
    return {
        "Input": "raw counts, or log1p-normalised expression where that is declared",
        "Genes": f"{config.num_genes:,}; {digest}",
        "Gene embeddings": f"width {config.gene_embedding_dim:,}{made}",
        "Sentence": f"`[CLS]` and up to {config.max_position_embeddings - 1:,} genes, the most expressed first; {fill}",
        "Value of `[CLS]`": (
            "that of the fourth known gene, as in the original" if config.cls_expression == "gene_3" else "0"
        ),
        "Attention": "bidirectional, padding masked, no positions",
        "Architecture": f"{config.num_hidden_layers} layers of width {config.hidden_size:,}",
        "Output": f"{config.output_dim:,} numbers of the cell{dataset}",
    }


def _features(config: StateTransitionConfig | PerturbationBaselineConfig) -> str:
    scale = {
        "log1p": "log1p-normalised expression",
        "counts": "raw counts",
        "embedding": "an embedding",
    }[str(config.feature_scale)]
    total = f" ({config.target_sum:g} counts a cell)" if config.target_sum else ""
    return f"{config.input_dim:,} features of `{config.feature_key}`: {scale}{total}"


def _names(vocabulary: dict[str, Any]) -> dict[str, str]:
    if not vocabulary:
        return {"Names": "no `vocabulary.json` in this folder"}
    genes, cell_types = vocabulary.get("genes", []), vocabulary.get("cell_types", [])
    return {
        "Perturbations": f"{len(vocabulary['perturbations']):,}; control: `{vocabulary.get('control_perturbation')}`",
        "Cell types": _listed(cell_types) or "not recorded",
        "Genes": f"{len(genes):,}; SHA-256 of the list `{gene_list_digest(genes)}`" if genes else "not recorded",
    }


def _attention(config: StateTransitionConfig) -> str:
    if config.mask_attention:
        return "each cell attends to itself alone"
    seen = "causal" if config.is_causal else "bidirectional: every cell sees every other"
    positions = "rotary positions" if config.position_embedding_type == "rotary" else "no positions"
    return f"{seen}; {positions}"


def _listed(names: Sequence[str], *, most: int = 8) -> str:
    shown = ", ".join(map(str, names[:most]))
    return shown if len(names) <= most else f"{shown} and {len(names) - most:,} more"


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
    "gene_list_digest",
    "model_facts",
    "read_config",
    "training_time",
]
