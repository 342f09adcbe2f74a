"""The gene that each perturbation targets, by its label."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from state_hf.configuration.perturbation_labels import Perturbation, PerturbationNames


def target_genes_of(
    labels: Iterable[str],
    genes: Collection[str],
    given: Mapping[Any, str | None] | None = None,
    *,
    control: str,
) -> dict[str, str | None] | None:
    """Say of labels which gene they target where that is not the gene of their name.

    Args:
        labels: Labels of perturbations.
        genes: Names of genes.
        given: Target genes as the user names them: label, in any spelling -> gene, None for one without.
        control: Label of the control. A label such as "A+ctrl" targets the gene A.

    Returns:
        Label -> gene, None for one without a target; None if there is nothing to say.
    """
    known, spelt = set(genes), PerturbationNames(map(str, given or ()), control=control)
    as_given = {str(label): gene for label, gene in (given or {}).items()}
    found: dict[str, str | None] = {}
    for label in labels:
        members = Perturbation.of(label, control=control).members
        name = spelt.find(label)
        if name is not None:
            found[label] = as_given[name]
        elif label not in known and len(members) == 1 and members[0] in known:
            found[label] = members[0]
    return found or (None if given is None else {})


__all__ = ["target_genes_of"]
