"""What a Geneformer model is said to be, on its card and by `inspect`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from state_hf.model_cards.facts import first_of, gene_list_digest, names_in_words, read_json

LICENCE = {"license": "other", "license_name": "as-the-original"}
LICENCE_NOTE = (
    "The pages of the published Geneformer models on the Hub have named Apache-2.0; the page that yours come from says "
    "what holds."
)
CITATION = """\
## Citation

```bibtex
@article{theodoris2023transfer,
  title = {Transfer learning enables predictions in network biology},
  author = {Theodoris, Christina V. and Xiao, Ling and Chopra, Anant and others},
  journal = {Nature},
  volume = {618},
  pages = {616--624},
  year = {2023},
  doi = {10.1038/s41586-023-06139-9}
}
```"""


def facts(config: Any, folder: Path) -> dict[str, str]:
    """The rows of a card's table of facts."""
    tokenizer = read_json(folder / "tokenizer_config.json")
    genes = (folder / "genes.txt").read_text(encoding="utf-8").split() if (folder / "genes.txt").is_file() else []
    framed = "<cls>" in tokenizer.get("special_ids", {})
    most = tokenizer.get("model_max_length", config.max_position_embeddings)
    pooling = tokenizer.get("cell_pooling", "mean")
    rows = {
        "Input": "raw counts, or log1p-normalised expression where that is declared; depth does not matter",
        "Genes": f"{len(genes):,}; SHA-256 of `genes.txt` `{gene_list_digest(genes)}`",
        "Release": "V2: `<cls>`, genes, `<eos>`" if framed else "V1: genes alone",
        "Cell": f"its expressed genes by expression over their medians, {most:,} tokens at most",
        "Architecture": f"BERT, {config.num_hidden_layers} layers of width {config.hidden_size:,}, absolute positions",
        "Output": (
            f"{config.hidden_size:,} numbers of the cell: "
            + ("the state of the first token" if pooling == "first" else "the mean over the states of its genes")
        ),
    }
    classes = _classes(config)
    return rows | ({"Classes": names_in_words(classes)} if classes else {})


def inspection(config: Any, *, genes: Sequence[str] | None, vocabulary: Any) -> tuple[dict[str, str], list[str]]:
    """What a model is, by topic, and what a user would need and is not there."""
    found = {
        "sizes": (
            f"{config.num_hidden_layers} layers of width {config.hidden_size}, {config.num_attention_heads} heads; "
            f"{config.vocab_size:,} tokens"
        ),
        "input": f"counts (or log1p values), as {config.max_position_embeddings:,} genes at most, by rank",
        "output": f"{config.hidden_size} numbers a cell",
    }
    classes = _classes(config)
    if classes:
        found["classes"] = first_of(classes)
    if genes is None:
        return found, ["its genes (genes.txt)"]
    found["vocabulary"] = f"{len(genes):,} genes: {first_of(genes)}"
    return found, []


def _classes(config: Any) -> list[str]:
    """Names of the classes of a model with a classifier."""
    if not any("Classification" in name for name in config.architectures or []):
        return []
    return [str(config.id2label[number]) for number in sorted(config.id2label)]


__all__ = ["CITATION", "LICENCE", "LICENCE_NOTE", "facts", "inspection"]
