"""Runs a State Embedding model over blocks of cells, tokenized in the background, in batches that fit into memory."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from accelerate.utils.memory import should_reduce_batch_size
from transformers.utils import logging

from state_hf.data.cell_blocks import CellBlocks
from state_hf.data.read_ahead import read_ahead
from state_hf.modeling.state_embedding import StateEmbeddingModel
from state_hf.tokenization.gene_names import GeneReport
from state_hf.tokenization.input_scale import InputType
from state_hf.tokenization.state_embedding import Fill, StateEmbeddingTokenizer

logger = logging.get_logger(__name__)

BatchSize: TypeAlias = int | Literal["auto"]

# Activations that are alive at once, in rows as wide as the encoder: the residual stream, query, key, value, the
# attended values and the feed-forward block.
_LIVE_ACTIVATIONS = 8
# A CPU is fastest while the activations stay in its caches; measured at widths of 32 to 2048, a third faster than with
# eight times as much. An accelerator is full at a quarter of a million tokens.
_CPU_ACTIVATION_BYTES, _CPU_TOKENS = 2**26, 2**13
_ACCELERATOR_ACTIVATION_BYTES, _ACCELERATOR_TOKENS = 2**30, 2**18
_MAX_AUTO_CELLS = 512


class BatchLimit:
    """How much of a block goes through the model at once: a number of cells, and of tokens with the padding.

    Args:
        cells: Cells at most.
        tokens: Tokens at most (a single cell may have more).
    """

    def __init__(self, cells: int, tokens: float) -> None:
        self.cells, self.tokens = cells, tokens

    @classmethod
    def of(cls, batch_size: BatchSize, model: StateEmbeddingModel) -> "BatchLimit":
        """The limit that a user's `batch_size` stands for; "auto" fits the activations into the device's memory."""
        if batch_size != "auto":
            if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
                raise ValueError(f"batch_size must be 'auto' or a whole number from 1 on, but is {batch_size!r}")
            return cls(batch_size, float("inf"))
        config = model.config
        width = max(config.hidden_size, config.intermediate_size, config.count_encoder_dim // 4)
        token_bytes = _LIVE_ACTIVATIONS * width * model.dtype.itemsize
        available, most = _ACCELERATOR_ACTIVATION_BYTES, _ACCELERATOR_TOKENS
        if model.device.type == "cuda":
            available = torch.cuda.mem_get_info(model.device)[0] // 2
        elif model.device.type == "cpu":
            available, most = _CPU_ACTIVATION_BYTES, _CPU_TOKENS
        return cls(_MAX_AUTO_CELLS, min(available // token_bytes, most))

    def halve(self, cells: int, tokens: int) -> None:
        """Go down to half of a batch that did not fit."""
        self.cells, self.tokens = max(cells // 2, 1), tokens / 2

    def batches(self, lengths: np.ndarray) -> Iterator[np.ndarray]:
        """Cut cells into batches of similar length, and of equal size where the lengths are equal.

        Args:
            lengths: (cells,). Tokens of every cell.

        Yields:
            Positions of the cells of a batch, longest first.
        """
        order = np.argsort(-lengths, kind="stable")
        start = 0
        while start < len(order):
            longest = max(int(lengths[order[start]]), 1)
            most = max(min(self.cells, int(min(self.tokens / longest, len(order)))), 1)
            left = len(order) - start
            size = -(-left // -(-left // most))
            yield order[start : start + size]
            start += size


class CellEmbedder:
    """Embeds blocks of cells with a loaded model.

    Args:
        model: In evaluation mode, on its device.
        tokenizer: With the model's vocabulary.
        batch_size: Cells that go through the model at once, or "auto". The result does not depend on it.
        fill: How a sentence longer than a cell's expressed genes is filled (`StateEmbeddingTokenizer.encode_cells`).
            By default as the tokenizer says.
        seed: Of the random fill. The result for a cell depends on it and the cell's position in the data.
        workers: Threads that tokenize ahead of the model; 0 tokenizes in between. The result does not depend on it.
    """

    def __init__(
        self,
        model: StateEmbeddingModel,
        tokenizer: StateEmbeddingTokenizer,
        *,
        batch_size: BatchSize = "auto",
        fill: Fill | None = None,
        seed: int = 0,
        workers: int = 1,
    ) -> None:
        if not isinstance(workers, int) or workers < 0:
            raise ValueError(f"workers must be a whole number from 0 on, but is {workers!r}")
        self.model, self.tokenizer = model, tokenizer
        self.fill, self.seed, self.workers = tokenizer.fill if fill is None else fill, seed, workers
        self.limit = BatchLimit.of(batch_size, model)

    def embed(
        self,
        cells: CellBlocks,
        genes: GeneReport,
        *,
        input_type: InputType,
        ranges: Iterable[tuple[int, int]],
        progress: Callable[[int], Any] = lambda cells: None,
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Embed ranges of cells.

        Args:
            cells: The data.
            genes: How its genes map to the vocabulary.
            input_type: "counts" or "log1p".
            ranges: First cell and end of every block.
            progress: Called with a number of cells when they have gone through the model.

        Yields:
            First cell and embedding (cells, embedding_dim), float32, of every block; blocks may change places.

        Raises:
            ValueError: A block cannot be tokenized, or the model's output is not finite (the message names the cells).
        """

        def read(bounds: tuple[int, int]) -> tuple[int, Any]:
            return bounds[0], cells.read(*bounds)

        def encode(block: tuple[int, Any]) -> tuple[int, dict[str, torch.Tensor]]:
            start, counts = block
            try:
                encoding = self.tokenizer.encode_cells(
                    counts,
                    genes,
                    input_type=input_type,
                    fill=self.fill,
                    seed=self.seed,
                    first_cell=start,
                    max_length=self.model.config.max_position_embeddings,
                )
            except ValueError as error:
                raise ValueError(f"Cells {start} to {start + counts.shape[0] - 1} of {cells.name}: {error}") from error
            return start, dict(encoding)

        for start, encoding in read_ahead(ranges, read, encode, workers=self.workers):
            embedding = self._embed_block(encoding, progress)
            self._check_finite(embedding, cells, start)
            yield start, embedding

    def _embed_block(self, encoding: dict[str, torch.Tensor], progress: Callable[[int], Any]) -> np.ndarray:
        lengths = encoding["attention_mask"].sum(dim=1).numpy()
        waiting = list(self.limit.batches(lengths))[::-1]
        finished: list[tuple[np.ndarray, torch.Tensor]] = []
        while waiting:
            batch = waiting.pop()
            embedding = self._forward(encoding, batch, lengths[batch])
            if embedding is None:
                left = np.concatenate([batch, *waiting[::-1]])
                waiting = [left[part] for part in self.limit.batches(lengths[left])][::-1]
            else:
                finished.append((batch, embedding))
                progress(len(batch))
        result = torch.empty(len(lengths), self.model.config.embedding_dim)
        for batch, embedding in finished:
            result[torch.from_numpy(batch)] = embedding.float().cpu()
        return result.numpy()

    def _forward(
        self, encoding: dict[str, torch.Tensor], batch: np.ndarray, lengths: np.ndarray
    ) -> torch.Tensor | None:
        """The embedding of a batch, or None, with a lower limit, if it does not fit into the device's memory."""
        rows, longest = torch.from_numpy(batch), int(lengths.max())
        inputs = {name: tensor[rows, :longest].to(self.model.device) for name, tensor in encoding.items()}
        # A mask costs the attention its fastest kernels, and sentences of one length need none.
        if lengths.min() == longest:
            del inputs["attention_mask"]
        try:
            with torch.inference_mode():
                return self.model(**inputs, output_genes=False).embedding
        except RuntimeError as error:
            if len(batch) == 1 or not should_reduce_batch_size(error):
                raise
        self.limit.halve(len(batch), len(batch) * longest)
        logger.warning(
            f"{len(batch)} cells of {longest} tokens do not fit into the memory of {self.model.device}: "
            f"going on with at most {self.limit.cells} cells in a batch"
        )
        return None

    def _check_finite(self, embedding: np.ndarray, cells: CellBlocks, start: int) -> None:
        broken = np.flatnonzero(~np.isfinite(embedding).all(axis=1))
        if len(broken):
            names = cells.cell_names(start, start + len(embedding))[broken[:5]]
            raise ValueError(
                f"The model's output is not finite for {len(broken)} of the cells {start} to "
                f"{start + len(embedding) - 1} of {cells.name}, among them {', '.join(map(repr, map(str, names)))}: "
                "check the weights for NaN, and try dtype='float32' if they run in float16."
            )
