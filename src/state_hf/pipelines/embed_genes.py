"""From the proteins of genes to a gene table."""

import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from state_hf.data.partial_results import PartialResults
from state_hf.gene_embeddings.gene_table import GeneTable, load_gene_table
from state_hf.gene_embeddings.protein_embedder import ProteinEmbedder
from state_hf.gene_embeddings.protein_fasta import GeneNames, Proteins, read_proteins
from state_hf.gene_embeddings.protein_models import ProteinModel, load_protein_model
from state_hf.inference.loading import DTYPES, model_digest
from state_hf.inference.processes import Processes, join_processes
from state_hf.inference.resumable_output import ResumableOutput

logger = logging.get_logger(__name__)

# Genes that are computed and stored together. The result must not depend on the number of processes, so this does not.
_BLOCK_GENES = 64


def embed_genes(
    proteins: str | Path | Sequence[str | Path],
    model: str | Path,
    *,
    output: str | Path,
    genes: Iterable[str] | None = None,
    names: GeneNames = "symbol",
    window: int | None = None,
    batch_tokens: int = 8192,
    dtype: str = "float32",
    device: str | torch.device | None = None,
    revision: str = "main",
    resume: bool = False,
    overwrite: bool = False,
) -> GeneTable:
    """Compute a gene table from protein sequences.

    A gene's row is the mean over its different proteins of the mean over a protein's residues of the last layer's
    output. Under `accelerate launch` the processes share the genes. The table does not depend on `batch_tokens`, but
    for rounding, and not at all on the number of processes or on interruptions.

    Args:
        proteins: FASTA files, gzip-compressed or not; see `read_proteins` for headers and residues.
        model: A folder or hub id of an ESM-2 or ESMC model, or an `esm2_*.pt` file for the package fair-esm.
        output: The folder to write; see `GeneTable`.
        genes: Only these genes, in this order; those without a protein are left out and recorded. Default: all, in the
            order of their names.
        names: What genes are called by: "symbol" or "id".
        window: Most residues that are read at once; longer proteins are read in parts. Default: the model's.
        batch_tokens: Tokens that go through the model at once.
        dtype: "float32", "bfloat16" or "float16". Means are always taken in float32.
        device: Where to compute. Default: CUDA, then MPS, then the CPU.
        revision: Branch, tag or commit of the model on the Hub.
        resume: Go on with what an interrupted call with the same settings left; a complete table is kept.
        overwrite: Replace a table that exists, and throw away an unfinished run.

    Returns:
        The table.

    Raises:
        FileExistsError: The output exists, or an unfinished run.
        ImportError: fair-esm is needed and missing.
        ValueError: A FASTA file or the model cannot be used, or an interrupted run was made with other settings.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, but is {dtype!r}")
    target = ResumableOutput(Path(output), resume=resume, overwrite=overwrite)
    processes = join_processes(device)
    if processes.is_main:
        target.refuse_existing()
    read = read_proteins(proteins, names=names)
    chosen, missing = _choose(read, genes)
    loaded = load_protein_model(model, dtype=getattr(torch, dtype), device=processes.device, revision=revision)
    embedder = ProteinEmbedder(loaded, window=window, batch_tokens=batch_tokens)
    record = _record(loaded, embedder, read, chosen, missing, dtype=dtype, names=names)
    if processes.is_main:
        logger.info(f"{read}\n{len(chosen):,} genes to embed with {loaded.name} (width {loaded.width:,})")
        if missing:
            logger.warning(f"{len(missing):,} of the genes asked for have no protein: {', '.join(missing[:5])} ...")
        target.take_up({"": record})
        if target.is_complete:
            target.check_complete(record, load_gene_table(target.path).record)
            logger.info(f"{target.path} is already complete")
        else:
            target.start(record, num_rows=len(chosen), block_rows=_BLOCK_GENES)
    processes.wait()
    if not target.is_complete:
        _compute(target.partial, list(chosen.values()), embedder, processes)
        processes.wait()
        if processes.is_main:
            _finish(target, list(chosen), record)
    processes.wait()
    return load_gene_table(target.path)


def _choose(read: Proteins, genes: Iterable[str] | None) -> tuple[Mapping[str, tuple[str, ...]], list[str]]:
    """The proteins of the genes to embed, and the genes that have none."""
    if genes is None:
        return read.isoforms, []
    wanted = list(dict.fromkeys(genes))
    chosen = {gene: read.isoforms[gene] for gene in wanted if gene in read.isoforms}
    if not chosen:
        raise ValueError(
            f"None of the {len(wanted):,} genes asked for ({', '.join(wanted[:3])} ...) is among the "
            f"{len(read.isoforms):,} with proteins ({', '.join(list(read.isoforms)[:3])} ...): symbols and ids mixed?"
        )
    return chosen, [gene for gene in wanted if gene not in chosen]


def _record(
    model: ProteinModel,
    embedder: ProteinEmbedder,
    read: Proteins,
    chosen: Mapping[str, Any],
    missing: Sequence[str],
    *,
    dtype: str,
    names: str,
) -> dict[str, Any]:
    # A path means nothing elsewhere; the weights' digest says which model it was.
    name = Path(model.name).name if Path(model.name).exists() else model.name
    return {
        "model": name,
        "model_sha256": model_digest(model.network),
        "window": embedder.window,
        "dtype": dtype,
        "names": names,
        "proteins": str(read),
        "proteins_sha256": read.digest,
        "genes": len(chosen),
        "genes_without_protein": list(missing),
    }


def _compute(folder: Path, isoforms: Sequence[Sequence[str]], embedder: ProteinEmbedder, processes: Processes) -> None:
    """Compute and store this process' share of the missing blocks."""
    partial = PartialResults.open(folder)
    missing = partial.missing()
    # Nobody may finish a block before all have seen which ones are missing.
    processes.wait()
    share = processes.share(missing)
    bounds = [partial.bounds(block) for block in share]
    total = sum(stop - start for start, stop in bounds)
    with logging.tqdm(total=total, unit=" genes", desc="embed genes", disable=not processes.is_main) as bar:
        for block, (start, stop) in zip(share, bounds, strict=True):
            partial.write(block, embedder.embed(isoforms[start:stop], bar.update))


def _finish(target: ResumableOutput, genes: Sequence[str], record: dict[str, Any]) -> None:
    folder = target.path
    rows = torch.cat([torch.from_numpy(block) for _, block in PartialResults.open(target.partial).blocks()])
    unfinished = folder.with_name(f".writing-{folder.name}")
    if unfinished.exists():
        shutil.rmtree(unfinished)
    GeneTable(genes, rows, record).save_pretrained(unfinished)
    if folder.exists():
        shutil.rmtree(folder)
    unfinished.rename(folder)
    target.delete_partial()
    logger.info(f"Wrote {folder}: {len(genes):,} genes x {rows.shape[1]:,}")


__all__ = ["embed_genes"]
