"""One page on a network of genes: its picture, its groups, and how it agrees with a known one."""

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd

from state_hf.analysis.gene_networks import places_in_picture, strongest_edges
from state_hf.configuration.wording import counted
from state_hf.pipelines.network import GeneNetwork
from state_hf.reporting.page import drawn, flat, render, table_of, write_page
from state_hf.reporting.svg_plot import Axis, Plot

_DRAWN_EDGES = 250
_TABLE_ROWS = 50
_SHOWN_GENES = 12
_COLOURS = ("prediction", "baseline", "both", "only-real")


def write_network_report(network: GeneNetwork, path: str | Path) -> Path:
    """Write the page.

    Args:
        network: What `state_hf.network` returned.
        path: The `.html` file; written under a temporary name and renamed.

    Returns:
        The path.
    """
    return write_page(network_page(network), path)


def network_page(network: GeneNetwork) -> str:
    """The page as text; its styles are inside it, and every name is escaped."""
    groups = None
    if network.metagenes is not None and len(network.metagenes):
        members = network.metagenes.groupby("metagene")["gene"]
        rows = {f"metagene_{group}": (len(genes), _listed(genes)) for group, genes in members}
        groups = pd.DataFrame.from_dict(rows, orient="index", columns=["size", "members"]).head(_TABLE_ROWS)
    edges = network.edges.head(_TABLE_ROWS)
    names = [f"{source} – {target}" for source, target in zip(edges["source"], edges["target"], strict=True)]
    return render(
        "network.html",
        title="Network of genes",
        summary=network_text(network).splitlines()[0],
        definition=f"Weights: {network.record['definition']}.",
        picture=drawn(network_picture(network)),
        caption=f"The {counted(min(_DRAWN_EDGES, len(network.edges)), 'edge')} with the highest weights; connected "
        "genes are near each other. Colours are the four largest groups, grey the others.",
        agreement=None if network.agreement is None else table_of(network.agreement.set_index("score"), "score"),
        groups=None if groups is None else table_of(groups, "group"),
        edges=table_of(pd.DataFrame({"weight": edges["weight"].to_numpy()}, index=names), "pair"),
        settings=flat({name: value for name, value in network.record.items() if name != "definition"}),
    )


def network_text(network: GeneNetwork) -> str:
    """How large the network is, its largest groups, and how it agrees with a known one, in lines."""
    genes = len({*network.edges["source"], *network.edges["target"]})
    lines = [f"{counted(len(network.edges), 'edge')} between {counted(genes, 'gene')}."]
    if network.metagenes is not None:
        for group, members in list(network.metagenes.groupby("metagene")["gene"])[:5]:
            lines.append(f"metagene {group}: {counted(len(members), 'gene')}: {_listed(members)}")
    if network.agreement is not None:
        lines += [
            f"AUPRC {row['auprc']:.3f} (by chance {row['auprc_random']:.3f}), early precision {row['epr']:.2f} "
            f"times chance, {row['true_pairs']:,} of {row['pairs']:,} pairs known: {row['score']}"
            for row in network.agreement.to_dict("records")
        ]
    return "\n".join(lines)


def network_picture(network: GeneNetwork) -> ElementTree.Element:
    """The strongest edges, with genes coloured by group."""
    edges = strongest_edges(network.edges, _DRAWN_EDGES)
    places = places_in_picture(edges)
    genes = sorted(places)
    x, y = (np.array([places[gene][axis] for gene in genes]) for axis in (0, 1))
    plot = Plot("Network of genes", Axis(-1.1, 1.1, ticks=[]), Axis(-1.1, 1.1, ticks=[]), height=380, left=6, bottom=8)
    for source, target in zip(edges["source"], edges["target"], strict=True):
        ends = np.array([places[source], places[target]])
        plot.line(ends[:, 0], ends[:, 1], "stem")
    groups = {} if network.metagenes is None else dict(zip(network.metagenes["gene"], network.metagenes["metagene"],
                                                           strict=True))  # fmt: skip
    numbers = np.array([groups.get(gene, 0) for gene in genes])
    degrees = pd.concat([edges["source"], edges["target"]]).value_counts()
    sizes = np.array([int(degrees[gene]) for gene in genes])
    for group in range(len(_COLOURS) + 1):
        chosen = numbers == group + 1 if group < len(_COLOURS) else ~np.isin(numbers, np.arange(1, len(_COLOURS) + 1))
        plot.dots(x[chosen], y[chosen], _COLOURS[group] if group < len(_COLOURS) else "neither", size=6)
    plot.name_dots(x, y, np.array(genes, dtype=object), sizes)
    return plot.svg


def _listed(genes: pd.Series) -> str:
    names = list(genes)
    more = f" and {len(names) - _SHOWN_GENES:,} more" if len(names) > _SHOWN_GENES else ""
    return ", ".join(names[:_SHOWN_GENES]) + more


__all__ = ["network_page", "network_picture", "network_text", "write_network_report"]
