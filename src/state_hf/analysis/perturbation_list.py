"""All perturbations of a run: those that are asked for, and the random ones that they are held against."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from state_hf.analysis.gene_perturbations import (
    ExpressionCensus,
    GenePerturbation,
    LikeGenes,
    random_perturbations,
)
from state_hf.analysis.in_silico_statistics import Combination
from state_hf.configuration.near_names import near_names
from state_hf.configuration.wording import listed
from state_hf.tokenization.gene_names import GeneIndex, GeneReport


@dataclass(frozen=True)
class PerturbationList:
    """All perturbations of a run.

    Attributes:
        perturbations: Those that are asked for come first.
        asked: How many these are.
        randoms: For each of these, the places of the random ones that it is held against.
        combinations: Those with an anchor, by their places.
        census: The expression of the genes in the chosen cells.
        names: What the data call the genes, by vocabulary row; those that it lacks, what the vocabulary calls them.
        add_genes: Whether a gene is added to the cells that do not express it.
    """

    perturbations: list[GenePerturbation]
    asked: int
    randoms: dict[int, list[int]]
    combinations: list[Combination]
    census: ExpressionCensus
    names: dict[int, str]
    add_genes: bool

    @property
    def digest(self) -> str:
        """SHA-256 of what is perturbed, in order."""
        rows = [one.rows for one in self.perturbations]
        return hashlib.sha256(json.dumps([rows, self.asked]).encode()).hexdigest()


def asked_perturbations(
    genes: Sequence[str] | None, gene_file: str | Path | None
) -> list[tuple[str, list[str]]] | None:
    """Name and genes of every perturbation that a user asks for, or None for all genes one by one.

    Args:
        genes: Names of genes, and "A+B" for genes that are perturbed together.
        gene_file: A .txt file of such names, one a line, or a .gmt file of gene sets.

    Raises:
        ValueError: There are none, or one is asked for twice.
    """
    if genes is None and gene_file is None:
        return None
    asked = [(name, name.split("+")) for name in ([genes] if isinstance(genes, str) else genes or [])]
    if gene_file is not None:
        path = Path(gene_file)
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        if path.suffix == ".gmt":
            for line in lines:
                name, *rest = line.split("\t")
                members = [gene.strip() for gene in rest[1:] if gene.strip()]
                if not members:
                    raise ValueError(f"{path}: the set {name!r} has no genes: name, description, and genes by tabs.")
                asked.append((name, members))
        else:
            asked += [(line.strip(), line.strip().split("+")) for line in lines]
    names = [name for name, _ in asked]
    if not names:
        raise ValueError("There is nothing to perturb: the list of genes is empty.")
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise ValueError(f"{listed(twice)} {'is' if len(twice) == 1 else 'are'} asked for twice.")
    return asked


def names_of_genes(report: GeneReport, index: GeneIndex) -> dict[int, str]:
    """What genes are called, by vocabulary row: as the data do, and those that the data lack, as the vocabulary."""
    columns = np.flatnonzero(report.columns >= 0)[::-1].tolist()
    return dict(enumerate(index.genes)) | {int(report.columns[column]): report.names[column] for column in columns}


def list_perturbations(
    asked_for: list[tuple[str, list[str]]] | None,
    report: GeneReport,
    index: GeneIndex,
    census: ExpressionCensus,
    *,
    anchor: str | None = None,
    number: int = 0,
    only_expressed: bool = False,
    seed: int = 0,
) -> PerturbationList:
    """List what is perturbed.

    Args:
        asked_for: Of `asked_perturbations`.
        report: How the genes of the data map to the vocabulary.
        index: The vocabulary.
        census: The expression of the genes in the chosen cells.
        anchor: A gene that each of the others is perturbed together with, too.
        number: Random perturbations that each is held against.
        only_expressed: Whether the change does nothing to a gene that is not expressed.
        seed: Of the draws of random genes.

    Raises:
        ValueError: A name is no gene, or one of several, or a perturbation names a gene twice.
    """
    names = names_of_genes(report, index)
    rows_of = {name: row for row, name in names.items()}

    def row(name: str) -> int:
        found = [rows_of[name]] if name in rows_of else index.candidates(name)
        if len(found) != 1:
            near = near_names(name, list(rows_of))
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            what = "may be one of several genes" if found else "is no gene of the data or the vocabulary"
            raise ValueError(f"{name!r} {what}{hint}")
        return int(found[0])

    if asked_for is None:
        asked = [GenePerturbation(names[int(one)], (int(one),)) for one in report.genes]
    else:
        asked = [GenePerturbation(name, tuple(map(row, members))) for name, members in asked_for]
    for one in asked:
        if len(set(one.rows)) < len(one.rows):
            raise ValueError(f"{one.name!r} names a gene twice.")
    kept: tuple[int, ...] = ()
    combined: dict[int, tuple[int, ...]] = {}
    if anchor is not None:
        kept = (row(anchor),)
        asked = [GenePerturbation(anchor, kept), *(one for one in asked if one.rows != kept)]
        for one in asked[1:]:
            if kept[0] not in one.rows:
                combined[len(asked)] = one.rows
                asked.append(GenePerturbation(f"{anchor}+{one.name}", (*kept, *one.rows)))
    perturbations, places = list(asked), {one.rows: at for at, one in enumerate(asked)}
    combinations = [Combination(at, 0, places[rows]) for at, rows in combined.items()]
    like = LikeGenes(census, report.genes)
    randoms: dict[int, list[int]] = {}
    for at, one in enumerate(asked if number else []):
        if only_expressed and not census.expressing[list(one.rows)].any():
            continue
        fixed = kept if at in combined else ()
        found = random_perturbations(one, like, number, kept=fixed, seed=seed)
        for other in found:
            if other.rows not in places:
                places[other.rows] = len(perturbations)
                perturbations.append(other)
        randoms[at] = [places[other.rows] for other in found]
    return PerturbationList(perturbations, len(asked), randoms, combinations, census, names, asked_for is not None)


__all__ = ["PerturbationList", "asked_perturbations", "list_perturbations", "names_of_genes"]
