"""A gene table: one row of numbers a gene, in a stated order."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from state_hf.configuration.model_folders import loading_from, require_found
from state_hf.conversion.lazy_tensor import LazyTensor
from state_hf.conversion.torch_file import read_pickled
from state_hf.data.whole_files import written_whole
from state_hf.model_cards.facts import gene_list_digest
from state_hf.model_cards.pushing import PushWithCardMixin
from state_hf.tokenization.text_files import read_text

_TENSORS, _GENES, _RECORD = "gene_table.safetensors", "genes.txt", "gene_table.json"


@dataclass(frozen=True, eq=False)
class GeneTable(PushWithCardMixin):
    """Embeddings of genes, in the order of their rows.

    It is kept as a folder: `gene_table.safetensors`, with a vector for each gene, which a State Transition model takes
    as perturbation features, too; `genes.txt`, the order, which a `StateEmbeddingTokenizer` reads, too; and
    `gene_table.json`, which says how it was made.

    Args:
        genes: Name of each row.
        embeddings: (genes, width), float32.
        record: How it was made.

    Raises:
        ValueError: If names and rows do not match, a name repeats, or a number is not finite.
    """

    genes: Sequence[str]
    embeddings: torch.Tensor
    record: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "genes", tuple(self.genes))
        if self.embeddings.dim() != 2 or len(self.embeddings) != len(self.genes) or not self.genes:
            raise ValueError(
                f"A gene table of {len(self.genes):,} genes cannot have rows of shape {tuple(self.embeddings.shape)}."
            )
        rows = {gene: row for row, gene in enumerate(self.genes)}
        if len(rows) < len(self.genes):
            twice = next(gene for row, gene in enumerate(self.genes) if rows[gene] != row)
            raise ValueError(f"The gene {twice!r} has two rows in the gene table.")
        broken = (~self.embeddings.isfinite().all(dim=1)).nonzero().flatten().tolist()
        if broken:
            raise ValueError(f"The row of {self.genes[broken[0]]!r} is not finite, and so are {len(broken)} in all.")
        object.__setattr__(self, "_rows", rows)

    def __len__(self) -> int:
        return len(self.genes)

    def __contains__(self, gene: object) -> bool:
        return gene in self._rows  # type: ignore[attr-defined]

    @property
    def width(self) -> int:
        """Numbers a gene."""
        return self.embeddings.shape[1]

    @property
    def digest(self) -> str:
        """SHA-256 of the gene list: that of the file `genes.txt`."""
        return gene_list_digest(self.genes)

    def select(self, genes: Iterable[str]) -> "GeneTable":
        """The table of these genes, in their order.

        Raises:
            ValueError: If the table lacks one of them.
        """
        wanted = list(genes)
        missing = [gene for gene in wanted if gene not in self]
        if missing:
            named = ", ".join(map(repr, missing[:5])) + (" and others" if len(missing) > 5 else "")
            raise ValueError(
                f"The gene table of {len(self):,} genes lacks {len(missing):,} of {len(wanted):,}: {named}."
            )
        rows: Any = self._rows  # type: ignore[attr-defined]
        return GeneTable(wanted, self.embeddings[[rows[gene] for gene in wanted]], self.record)

    def save_pretrained(self, save_directory: str | Path) -> None:
        """Write the table into a folder, which is made where it is missing."""
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        rows = self.embeddings.float().cpu().contiguous().numpy()
        with written_whole(folder / _TENSORS) as temporary:
            save_file(dict(zip(self.genes, rows, strict=True)), temporary)
        with written_whole(folder / _GENES) as temporary:
            temporary.write_text("".join(f"{gene}\n" for gene in self.genes), encoding="utf-8", newline="")
        record = {**self.record, "genes": len(self), "width": self.width, "gene_list_sha256": self.digest}
        with written_whole(folder / _RECORD) as temporary:
            temporary.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def load_gene_table(source: str | Path, **hub: Any) -> GeneTable:
    """Load a gene table.

    Args:
        source: A folder or hub id of a `GeneTable`; or a file of the original's format (`protein_embeddings.pt`): a
            dictionary {gene: tensor}, which is read without running any code that it may hold.
        **hub: `revision`, `subfolder`, `cache_dir`, `local_files_only`, `token`: see `from_pretrained` of transformers.

    Raises:
        OSError: The folder, file or repository does not exist or is no gene table.
        ValueError: A file does not hold what it should.
    """
    if Path(source).suffix in (".pt", ".pth", ".torch"):
        return _load_original(Path(source))
    if not hub:
        require_found(source, _TENSORS)
    paths = {name: _fetch(source, name, **hub) for name in (_TENSORS, _GENES, _RECORD)}
    with loading_from(source, look=False, holds=_TENSORS):
        genes = read_text(paths[_GENES]).splitlines()
        record = json.loads(read_text(paths[_RECORD]))
        rows = load_file(paths[_TENSORS])
        return _table_of(str(source), genes, record, rows)


def _table_of(source: str, genes: list[str], record: Any, rows: dict[str, np.ndarray]) -> GeneTable:
    if len(genes) != len(rows) or record.get("gene_list_sha256") not in (None, gene_list_digest(genes)):
        raise ValueError(f"{source}: {_GENES} is not the gene list that the table was saved with.")
    return GeneTable(genes, torch.from_numpy(np.stack([rows[gene] for gene in genes])), record)


def _fetch(source: str | Path, name: str, **hub: Any) -> Path:
    """Path of one of the table's files."""
    from transformers.utils.hub import cached_file

    path = cached_file(str(source), name, **hub)
    return Path(str(path))


def _load_original(path: Path) -> GeneTable:
    rows = read_pickled(path)
    if not isinstance(rows, dict) or not rows:
        raise ValueError(f"{path} holds a {type(rows).__name__}, not a dictionary of genes.")
    for gene, row in rows.items():
        if not isinstance(gene, str) or not isinstance(row, LazyTensor) or len(row.shape) != 1:
            raise ValueError(f"{path} is no gene table: {gene!r} is not a gene with one row of numbers.")
    widths = {row.shape[0] for row in rows.values()}
    if len(widths) > 1:
        raise ValueError(f"{path} has rows of different widths: {', '.join(map(str, sorted(widths)))}.")
    return GeneTable(list(rows), torch.stack([row.load().float() for row in rows.values()]), {"source": path.name})


__all__ = ["GeneTable", "load_gene_table"]
