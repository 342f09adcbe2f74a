"""What a Cell2Sentence model is said to be, on its card and by `inspect`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from state_hf.model_cards.facts import first_of, gene_list_digest, names_in_words, read_json

LICENCE = {"license": "other", "license_name": "as-the-original"}
LICENCE_NOTE = (
    "Published Cell2Sentence models carry licences of their own, some of which forbid commercial use or come with the "
    "terms of the language model that they were trained from; the page that yours come from says what holds."
)
CITATION = """\
## Citation

```bibtex
@inproceedings{levine2024cell2sentence,
  title = {Cell2Sentence: Teaching Large Language Models the Language of Biology},
  author = {Levine, Daniel and Rizvi, Syed Asad and L{\\'e}vy, Sacha and others},
  booktitle = {International Conference on Machine Learning},
  year = {2024},
  doi = {10.1101/2023.09.11.557287}
}
```"""
_POOLINGS = {
    "mean_all": "the mean over the states of all tokens",
    "mean": "the mean over the states of its genes' tokens",
    "last": "the state of the last token",
}


def facts(config: Any, folder: Path) -> dict[str, str]:
    """The rows of a card's table of facts."""
    settings, text = read_json(folder / "processor_config.json"), config.get_text_config()
    genes = (folder / "genes.txt").read_text(encoding="utf-8").split() if (folder / "genes.txt").is_file() else []
    line = read_json(folder / "rank_expression.json")
    pooled = _POOLINGS[settings.get("cell_pooling", "mean_all")]
    rows = {
        "Input": "raw counts, or log1p-normalised expression where that is declared; depth does not matter",
        "Genes": f"{len(genes):,}; SHA-256 of `genes.txt` `{gene_list_digest(genes)}`",
        "Cell": f"the names of its {settings.get('num_genes', 200):,} most expressed genes at most, highest first",
        "Architecture": (
            f"{config.model_type}, {text.num_hidden_layers} layers of width {text.hidden_size:,}, "
            f"{text.vocab_size:,} tokens"
        ),
        "Output": f"text; {text.hidden_size:,} numbers of the cell: {pooled}",
        "Expression from ranks": (
            f"log10(1 + normalised counts) = {line['intercept']:.4g} {line['slope']:+.4g} log10(1 + rank)"
            if line
            else "no line in this folder"
        ),
    }
    labels = settings.get("labels")
    return rows | ({"Labels": names_in_words(labels)} if labels else {})


def inspection(config: Any, *, genes: Sequence[str] | None, vocabulary: Any) -> tuple[dict[str, str], list[str]]:
    """What a model is, by topic, and what a user would need and is not there."""
    text = config.get_text_config()
    length = getattr(text, "max_position_embeddings", None)
    found = {
        "sizes": (
            f"{config.model_type}: {text.num_hidden_layers} layers of width {text.hidden_size}, "
            f"{text.num_attention_heads} heads; {text.vocab_size:,} tokens"
        ),
        "input": "counts (or log1p values), as names of genes in text" + (f" of {length:,} tokens" if length else ""),
        "output": f"text; {text.hidden_size} numbers a cell",
    }
    if genes is None:
        return found, ["its genes (genes.txt)"]
    found["vocabulary"] = f"{len(genes):,} genes: {first_of(genes)}"
    return found, []


__all__ = ["CITATION", "LICENCE", "LICENCE_NOTE", "facts", "inspection"]
