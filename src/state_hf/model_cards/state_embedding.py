"""What a State Embedding model is said to be, on its card and by `inspect`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from state_hf.configuration.state_embedding import StateEmbeddingConfig
from state_hf.model_cards.facts import first_of, gene_list_digest, read_json
from state_hf.model_cards.state_paper import CITATION, LICENCE, LICENCE_NOTE


def facts(config: StateEmbeddingConfig, folder: Path) -> dict[str, str]:
    """The rows of a card's table of facts."""
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


def inspection(
    config: StateEmbeddingConfig, *, genes: Sequence[str] | None, vocabulary: Any
) -> tuple[dict[str, str], list[str]]:
    """What a model is, by topic, and what a user would need and is not there."""
    dataset = f" and {config.dataset_embedding_dim} of its dataset" if config.use_dataset_token else ""
    found = {
        "sizes": (
            f"{config.num_hidden_layers} layers of width {config.hidden_size}, {config.num_attention_heads} heads; "
            f"gene table {config.num_genes:,} x {config.gene_embedding_dim}"
        ),
        "input": (
            f"counts (or log1p values), as sentences of {config.max_position_embeddings} tokens; "
            f"[CLS] has the expression {config.cls_expression!r}"
        ),
        "output": f"{config.embedding_dim} numbers a cell: {config.output_dim} of the cell{dataset}",
        "attention": "bidirectional, without positions",
    }
    if genes is None:
        return found, ["names of the gene table's rows (genes.txt)"]
    found["vocabulary"] = f"{len(genes):,} genes: {first_of(genes)}"
    return found, []


__all__ = ["CITATION", "LICENCE", "LICENCE_NOTE", "facts", "inspection"]
