"""Proteins of genes, from FASTA files of Ensembl, GENCODE, UniProt, or with plain headers."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from state_hf.tokenization.gene_aliases import without_version
from state_hf.tokenization.text_files import text_lines

GeneNames = Literal["symbol", "id"]

_ENSEMBL_FIELD = re.compile(r"(?:^|\s)(gene|gene_symbol):(\S+)")
_UNIPROT = re.compile(r"(?:sp|tr)\|([^|\s]+)\|")
_UNIPROT_GENE = re.compile(r"\sGN=(.+?)(?=\s[A-Z]{2}=|$)")
_GENCODE = re.compile(r"ENS[A-Z]*P\d+[^|\s]*\|ENS[A-Z]*T\d+[^|]*\|(ENS[A-Z]*G\d+[^|]*)\|[^|]*\|[^|]*\|[^|]*\|([^|]+)\|")
# The letters that a protein language model has learnt: the 20 amino acids, selenocysteine, pyrrolysine, the ambiguous
# B and Z, and X for any.
RESIDUES = "ACDEFGHIKLMNPQRSTVWYUOBZX"
_NUCLEOTIDES = frozenset("ACGTUN")
# So many letters that are all nucleotides are no protein.
_ENOUGH_LETTERS = 200


@dataclass(frozen=True)
class Proteins:
    """The proteins of genes.

    Args:
        isoforms: The different sequences of each gene, in the order that they were read in.
        duplicates: Sequences left out because the gene had the same one already.
        replaced: Residues that were replaced by X: stop codons inside a sequence, and J.
        unnamed: Sequences whose gene has no name of the kind asked for, and goes by the other.
    """

    isoforms: Mapping[str, tuple[str, ...]]
    duplicates: int
    replaced: int
    unnamed: int

    def __str__(self) -> str:
        sequences = sum(map(len, self.isoforms.values()))
        several = sum(len(of_gene) > 1 for of_gene in self.isoforms.values())
        parts = [f"{sequences:,} proteins of {len(self.isoforms):,} genes ({several:,} with several)"]
        parts += [f"{self.duplicates:,} duplicates left out"] if self.duplicates else []
        parts += [f"{self.replaced:,} stops and unknown residues read as X"] if self.replaced else []
        parts += [f"{self.unnamed:,} without the name asked for"] if self.unnamed else []
        return "; ".join(parts)

    @property
    def digest(self) -> str:
        """SHA-256 of genes and sequences, in order."""
        digest = hashlib.sha256()
        for gene, sequences in self.isoforms.items():
            digest.update("\t".join([gene, *sequences]).encode() + b"\n")
        return digest.hexdigest()


def read_proteins(paths: str | Path | Iterable[str | Path], *, names: GeneNames = "symbol") -> Proteins:
    """Read the proteins of genes from FASTA files, gzip-compressed or not.

    A gene's name comes from the header: Ensembl's `gene_symbol:` or `gene:`, GENCODE's 7th or 3rd field, UniProt's
    `GN=` (blanks become `_`) or accession; of any other header the first word is the gene. Where a header lacks the
    one, the other is taken: a gene of Ensembl without a symbol goes by its id.

    Sequences of a gene that are the same count once. A stop (`*`) at the end is left out; stops inside, and J, are read
    as X, which the models know as any residue. Lower-case letters are read as upper-case.

    Args:
        paths: One file or several.
        names: What genes are called by: "symbol", or "id" (an Ensembl id without its version, a UniProt accession
            without its isoform).

    Returns:
        The proteins; genes in the order of their names.

    Raises:
        ValueError: If a file is not a FASTA file of proteins (the message names the file and the record).
    """
    if names not in ("symbol", "id"):
        raise ValueError(f"names is {names!r}; it has to be 'symbol' or 'id'.")
    isoforms: dict[str, dict[str, None]] = {}
    duplicates = replaced = unnamed = 0
    for path in [paths] if isinstance(paths, str | Path) else paths:
        letters: set[str] = set()
        read = 0
        for header, text in _records(Path(path)):
            symbol, identifier = gene_of_header(header)
            gene = (symbol or identifier) if names == "symbol" else (identifier or symbol)
            unnamed += (symbol if names == "symbol" else identifier) is None
            sequence, changed = _cleaned(text, header, path)
            letters.update(sequence)
            read += len(sequence)
            of_gene = isoforms.setdefault(str(gene), {})
            duplicates += sequence in of_gene
            replaced += changed if sequence not in of_gene else 0
            of_gene[sequence] = None
        if not read:
            raise ValueError(f"{path} holds no sequences: it is not a FASTA file of proteins.")
        if letters <= _NUCLEOTIDES and read >= _ENOUGH_LETTERS:
            raise ValueError(f"{path} holds nucleotides ({''.join(sorted(letters))}): give protein sequences.")
    return Proteins({gene: tuple(isoforms[gene]) for gene in sorted(isoforms)}, duplicates, replaced, unnamed)


def gene_of_header(header: str) -> tuple[str | None, str | None]:
    """Symbol and id of the gene in a header (without `>`); at least one of them is there."""
    gencode = _GENCODE.match(header)
    if gencode:
        return gencode[2], without_version(gencode[1])
    uniprot = _UNIPROT.match(header)
    if uniprot:
        gene = _UNIPROT_GENE.search(header)
        return "_".join(gene[1].split()) if gene else None, uniprot[1].partition("-")[0]
    fields = dict(_ENSEMBL_FIELD.findall(header))
    if fields:
        identifier = fields.get("gene")
        return fields.get("gene_symbol"), without_version(identifier) if identifier else None
    return header.split()[0], None


def _records(path: Path) -> Iterator[tuple[str, str]]:
    """Header and sequence of every record."""
    header: str | None = None
    lines: list[str] = []
    with text_lines(path) as file:
        for number, line in enumerate(map(str.strip, file), start=1):
            if line.startswith(">"):
                if header is not None:
                    yield header, "".join(lines)
                header, lines = line[1:].strip(), []
                if not header:
                    raise ValueError(f"{path}, line {number}: the header is empty, so the protein has no gene.")
            elif line and header is None:
                raise ValueError(f"{path} is not a FASTA file: line {number} comes before the first '>'.")
            else:
                lines.append(line)
    if header is not None:
        yield header, "".join(lines)


def _cleaned(text: str, header: str, path: str | Path) -> tuple[str, int]:
    """The sequence in the models' letters, and the number of residues that X stands for now."""
    sequence = text.upper().removesuffix("*")
    name = header.split()[0]
    foreign = set(sequence) - {*RESIDUES, "*", "J"}
    if foreign:
        raise ValueError(
            f"{path}: the sequence of {name} has {' '.join(map(repr, sorted(foreign)))}, which is no amino acid: give "
            "unaligned protein sequences."
        )
    if not sequence:
        raise ValueError(f"{path}: the sequence of {name} is empty: remove the record.")
    changed = sequence.count("*") + sequence.count("J")
    return sequence.replace("*", "X").replace("J", "X"), changed


__all__ = ["RESIDUES", "Proteins", "gene_of_header", "read_proteins"]
