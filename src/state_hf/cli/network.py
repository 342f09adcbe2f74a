"""Make a network of genes from a model of any family that reads cells.

pairs of genes are scored by one of three:
  input       cosine of the vectors by which the model looks genes up; needs no cells
  contextual  cosine of genes' mean states over the cells that express them
  attention   mean rank of the attention between genes, over the cells that express both

  state-hf network --model geneformer --output edges.parquet --gene-sets metagenes.gmt
  state-hf network cells.h5ad --model geneformer --kind attention --condition-key condition --condition stim \\
      --control ctrl --output edges.parquet --graphml network.graphml --report network.html
  state-hf network cells.h5ad --model geneformer --kind contextual --reference known.tsv --output edges.parquet

The edges' file says what its weights are. Groups of genes (Leiden) are ready for enrichment analysis.
"""

import argparse
from pathlib import Path

from state_hf.cli.cell_options import add_computing_options, add_reading_options, chosen_values, natural
from state_hf.cli.library_log import told_on_stderr
from state_hf.data.cells.locations import CELL_FORMATS, as_location


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `state-hf network`."""
    parser.add_argument("data", nargs="?", type=as_location, metavar="IN", help=f"cells: {CELL_FORMATS}")
    parser.add_argument("--model", required=True, metavar="M", help="folder or hub id of a model")
    parser.add_argument("--output", required=True, type=Path, metavar="OUT", help=".parquet of edges")
    parser.add_argument("--overwrite", action="store_true", help="replace what exists")
    parser.add_argument("--graphml", type=Path, metavar="OUT", help=".graphml: also the network, with groups of genes")
    parser.add_argument("--gene-sets", type=Path, metavar="OUT", help=".gmt: also the groups of genes")
    parser.add_argument("--report", type=Path, metavar="HTML", help="also write one page with a picture")

    pairs = parser.add_argument_group("which pairs of genes")
    pairs.add_argument(
        "--kind", choices=("input", "contextual", "attention"), default="input", help="what scores pairs (input)"
    )
    pairs.add_argument("--genes", nargs="+", metavar="GENE", help="genes (default: the most widely expressed)")
    pairs.add_argument("--max-genes", type=int, default=2000, metavar="N", help="so many of these at most (2000)")
    pairs.add_argument(
        "--min-cells",
        type=natural,
        default=10,
        metavar="N",
        help="a gene, or of attentions a pair, that fewer cells express has no score (10)",
    )
    pairs.add_argument("--nearest", type=int, metavar="N", help="pairs among so many highest of a gene (10)")
    pairs.add_argument("--threshold", type=float, metavar="F", help="instead, pairs with this score or more")
    pairs.add_argument("--resolution", type=float, default=1.0, metavar="F", help="of groups: more for more (1)")
    pairs.add_argument(
        "--reference", type=Path, metavar="FILE", help="a known network, .csv, .tsv or .parquet: source, target"
    )

    cells = parser.add_argument_group("which cells")
    cells.add_argument(
        "--where", action="append", metavar="KEY=VALUE", help="cells with this value in this column of obs; repeatable"
    )
    cells.add_argument("--max-cells", type=int, metavar="N", help="so many of them at most, drawn")
    cells.add_argument("--condition-key", metavar="NAME", help="column of obs: scores are those of one value")
    cells.add_argument("--condition", metavar="VALUE", help="this one,")
    cells.add_argument("--control", metavar="VALUE", help="minus those of this one")
    add_reading_options(parser)
    add_computing_options(parser)
    parser.add_argument(
        "--hidden-layer", type=int, default=-1, metavar="N", help="of which states or attentions are, -1 the last"
    )


def run(arguments: argparse.Namespace) -> int:
    """Make the network, and print how large it is and how it agrees with the known one."""
    from state_hf.configuration.advice import refuse_existing
    from state_hf.pipelines.network import network
    from state_hf.reporting.network_report import network_text, write_network_report

    options = vars(arguments).copy()
    report = options.pop("report")
    if report is not None:
        refuse_existing(report, overwrite=arguments.overwrite)
    options["where"] = chosen_values(options["where"])
    with told_on_stderr():
        found = network(options.pop("model"), options.pop("output"), **options)
    print(network_text(found))
    if report is not None:
        print(f"Wrote {write_network_report(found, report)}")
    return 0
