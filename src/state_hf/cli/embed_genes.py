"""Compute a gene table from protein sequences: what a State Embedding model knows of a gene.

Every protein of a gene goes through a protein language model; a gene's row is the mean over its proteins of the mean
over a protein's residues. The output is a folder: gene_table.safetensors, genes.txt, gene_table.json.

examples:
  state-hf embed-genes Homo_sapiens.GRCh38.pep.all.fa.gz --model facebook/esm2_t33_650M_UR50D --output genes
  state-hf embed-genes uniprot.fasta --model esm2_t33_650M_UR50D.pt --output genes     # weights of fair-esm

several processes, one GPU each:
  accelerate launch --num_processes 4 -m state_hf embed-genes proteins.fa.gz --model ... --output genes

genes of another species for a trained model:
  state-hf genes extend MODEL genes --output MODEL_WITH_BOTH
"""

import argparse
from pathlib import Path

from state_hf.cli.library_log import told_on_stderr


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `state-hf embed-genes`."""
    parser.add_argument("proteins", nargs="+", type=Path, metavar="FASTA", help="protein sequences; .gz too")
    parser.add_argument(
        "--model", required=True, metavar="M", help="folder or hub id (ESM-2, ESMC), or an esm2_*.pt file of fair-esm"
    )
    parser.add_argument("--revision", default="main", metavar="R", help="branch, tag or commit of the model on the Hub")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder to write")
    parser.add_argument("--overwrite", action="store_true", help="replace what exists, and drop an unfinished run")
    parser.add_argument("--resume", action="store_true", help="go on with an interrupted run; keep a complete table")
    parser.add_argument("--genes", type=Path, metavar="FILE", help="only these genes, one a line, in this order")
    parser.add_argument(
        "--names", choices=("symbol", "id"), default="symbol", help="what genes are called by (default: symbol)"
    )
    parser.add_argument("--window", type=int, metavar="N", help="most residues read at once (default: the model's)")
    parser.add_argument(
        "--batch-tokens", type=int, default=8192, metavar="N", help="tokens at once, padding included (default: 8192)"
    )
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="precision (default: float32)"
    )
    parser.add_argument("--device", help="cuda, cuda:1, mps, cpu, ... (default: the first of these that there is)")


def run(arguments: argparse.Namespace) -> None:
    """Embed, with the messages of the library on standard error."""
    with told_on_stderr():
        from state_hf.pipelines.embed_genes import embed_genes

        options = vars(arguments).copy()
        listed = options.pop("genes")
        genes = None if listed is None else listed.read_text(encoding="utf-8").split()
        embed_genes(options.pop("proteins"), options.pop("model"), genes=genes, **options)
