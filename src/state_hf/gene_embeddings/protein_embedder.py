"""Embeddings of genes: means over the residues of a protein, then over the proteins of a gene."""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from accelerate.utils.memory import should_reduce_batch_size
from transformers.utils import logging

from state_hf.configuration.advice import Advised
from state_hf.gene_embeddings.protein_models import ProteinModel

logger = logging.get_logger(__name__)


class ProteinEmbedder:
    """Embeds genes with a protein language model.

    A protein's embedding is the mean over its residues of the last layer's output, without the special tokens. A
    protein longer than the window is read in parts of equal length, each residue once. A gene's embedding is the mean
    over its different proteins, long and short ones alike.

    Args:
        model: The model.
        window: Most residues that are read at once. Default: what the model was trained with.
        batch_tokens: Tokens that go through the model at once, padding included; halved where they do not fit into the
            device's memory. The result does not depend on it, but for rounding.

    Raises:
        ValueError: If the window or the batch has no room for a residue, or the model cannot read the window.
    """

    def __init__(self, model: ProteinModel, *, window: int | None = None, batch_tokens: int = 8192) -> None:
        self.model, self.window, self.batch_tokens = model, window or model.window, batch_tokens
        if min(self.window, batch_tokens) < 1:
            raise ValueError(f"window ({window}) and batch_tokens ({batch_tokens}) must be at least 1.")
        if model.longest is not None and self.window > model.longest:
            raise ValueError(f"{model.name} has positions for {model.longest:,} residues; the window is {window:,}.")

    def embed(
        self, isoforms: Sequence[Sequence[str]], progress: Callable[[int], Any] = lambda proteins: None
    ) -> np.ndarray:
        """Embed genes.

        Args:
            isoforms: The different proteins of each gene.
            progress: Called with a number of genes when they are done.

        Returns:
            (genes, width), float32.

        Raises:
            ValueError: The model's output is not finite.
        """
        proteins = list(dict.fromkeys(protein for of_gene in isoforms for protein in of_gene))
        embeddings = dict(zip(proteins, self.embed_proteins(proteins), strict=True))
        rows = [np.mean([embeddings[protein] for protein in of_gene], axis=0) for of_gene in isoforms]
        progress(len(isoforms))
        return np.stack(rows).astype(np.float32)

    def embed_proteins(self, proteins: Sequence[str]) -> np.ndarray:
        """(proteins, width), float64. Embeddings of single proteins."""
        parts = [(at, part) for at, protein in enumerate(proteins) for part in windows(protein, self.window)]
        parts.sort(key=lambda item: -len(item[1]))
        sums = np.zeros((len(proteins), self.model.width))
        for start, stop in self._batches([len(part) + 2 for _, part in parts]):
            batch = parts[start:stop]
            for (at, _), residues in zip(batch, self._residue_sums([part for _, part in batch]), strict=True):
                sums[at] += residues
        embeddings = sums / np.array([len(protein) for protein in proteins])[:, None]
        if not np.isfinite(embeddings).all():
            raise ValueError(
                Advised(
                    f"The output of {self.model.name} is not finite for some proteins",
                    "check its weights for NaN",
                    "compute in full precision, if it runs in half (dtype='float32')",
                )
            )
        return embeddings

    def _batches(self, lengths: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Start and end of batches of at most `batch_tokens` tokens, of lengths that fall."""
        start = 0
        while start < len(lengths):
            stop = min(start + max(self.batch_tokens // lengths[start], 1), len(lengths))
            yield start, stop
            start = stop

    def _residue_sums(self, sequences: list[str]) -> np.ndarray:
        """(sequences, width). Sums over the residues of each."""
        try:
            return self._forward(sequences)
        except RuntimeError as error:
            if len(sequences) == 1 or not should_reduce_batch_size(error):
                raise
        self.batch_tokens //= 2
        logger.warning(
            f"{len(sequences)} proteins of up to {len(sequences[0])} residues do not fit into the memory of "
            f"{self.model.device}: going on with {self.batch_tokens:,} tokens a batch"
        )
        half = len(sequences) // 2
        return np.concatenate([self._residue_sums(sequences[:half]), self._residue_sums(sequences[half:])])

    @torch.inference_mode()
    def _forward(self, sequences: list[str]) -> np.ndarray:
        # float32: sums of half-precision numbers over a thousand residues lose two digits.
        hidden = self.model.hidden(self.model.tokens(sequences))[:, 1:-1].float()
        lengths = torch.tensor([len(sequence) for sequence in sequences], device=hidden.device)
        residues = torch.arange(hidden.shape[1], device=hidden.device) < lengths[:, None]
        return hidden.masked_fill(~residues[..., None], 0.0).sum(dim=1).cpu().numpy()


def windows(sequence: str, length: int) -> list[str]:
    """Cut a sequence into as few parts as have at most `length` residues, all of about equal length."""
    count = -(-len(sequence) // length)
    bounds = [len(sequence) * part // count for part in range(count + 1)]
    return [sequence[start:stop] for start, stop in pairwise(bounds)]


__all__ = ["ProteinEmbedder", "windows"]
