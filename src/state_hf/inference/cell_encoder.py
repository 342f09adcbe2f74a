"""Runs a model of any family over blocks of cells, tokenized in the background, in batches that fit into memory."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, Self, TypeAlias, TypeVar

import numpy as np
import torch
from accelerate.utils.memory import should_reduce_batch_size
from transformers import PreTrainedModel
from transformers.utils import logging

from state_hf.configuration.advice import Advised
from state_hf.data.cells.stored_matrix import CellMatrix
from state_hf.data.read_ahead import read_ahead
from state_hf.inference.classifiers import head_inputs
from state_hf.inference.loading import evaluation_mode, load_model, load_tokenizer
from state_hf.tokenization.cell_tokenizer import CellTokenizer
from state_hf.tokenization.gene_names import GeneReport
from state_hf.tokenization.input_scale import InputType

logger = logging.get_logger(__name__)

Result = TypeVar("Result")
BatchSize: TypeAlias = int | Literal["auto"]
# What is kept of a cell: "embedding" is what users keep of it, "cell" what cells are compared by, "logits" the output
# of a model with a classification head, "head_inputs" what that head's last layer reads, and "answer" what a language
# model writes of it.
Part: TypeAlias = Literal["embedding", "cell", "logits", "head_inputs", "answer"]

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
    def of(cls, batch_size: BatchSize, model: PreTrainedModel) -> "BatchLimit":
        """The limit that a user's `batch_size` stands for; "auto" fits the activations into the device's memory."""
        if batch_size != "auto":
            if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
                raise ValueError(f"batch_size must be 'auto' or a whole number from 1 on, but is {batch_size!r}")
            return cls(batch_size, float("inf"))
        config = model.config.get_text_config()
        # Some stock configurations leave the width of the feed-forward block to the model, which takes four times.
        width = max(config.hidden_size, getattr(config, "intermediate_size", None) or 4 * config.hidden_size)
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


@dataclass(frozen=True)
class CellStates:
    """What a model says of a batch of cells.

    Attributes:
        cell: (cells, width). What cells are compared by.
        context: (cells, context width), or None. What the model says of where the cells come from.
        genes: (cells, tokens, width), or None. The state of every token.
        gene_rows: (cells, tokens). The vocabulary row of every token, -1 where it is no gene.
    """

    cell: torch.Tensor
    context: torch.Tensor | None
    genes: torch.Tensor | None
    gene_rows: torch.Tensor

    @property
    def embedding(self) -> torch.Tensor:
        """(cells, width + context width). What users keep of the cells."""
        return self.cell if self.context is None else torch.cat([self.cell, self.context], dim=-1)


class CellEncoder:
    """Embeds cells with a loaded model and its tokenizer, whatever their family.

    The cell is `model.get_cell_features(...)` where the model has it, else its hidden states, pooled as the tokenizer
    says.

    Args:
        model: On its device.
        tokenizer: With the model's vocabulary.
        batch_size: Cells that go through the model at once, or "auto". The result does not depend on it.
        seed: Of the tokenizer's random choices. The result for a cell depends on it and the cell's position in the
            data.
        workers: Threads that tokenize ahead of the model; 0 tokenizes in between. The result does not depend on it.
        hidden_layer: Which of the model's hidden states cells are pooled from: -1 for the last, -2 for the one before.
            Not for a model that has `get_cell_features`.
        **encoding: The tokenizer's own options (see its class). By default as it was saved.

    Raises:
        ValueError: An option has no such value, or the tokenizer no such option.

    Example:
        >>> encoder = CellEncoder.from_pretrained(folder)
        >>> encoder.states(encoder.tokenizer.encode_cells(adata)).cell.shape
        torch.Size([2638, 2048])
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: CellTokenizer,
        *,
        batch_size: BatchSize = "auto",
        seed: int = 0,
        workers: int = 1,
        hidden_layer: int = -1,
        **encoding: Any,
    ) -> None:
        if not isinstance(workers, int) or workers < 0:
            raise ValueError(f"workers must be a whole number from 0 on, but is {workers!r}")
        if hidden_layer != -1:
            _check_hidden_layer(hidden_layer, model)
        self.model, self.tokenizer, self.hidden_layer = model, tokenizer, hidden_layer
        self.encoding, self.seed, self.workers = tokenizer.encoding_options(**encoding), seed, workers
        self.limit = BatchLimit.of(batch_size, model)

    @classmethod
    def from_pretrained(
        cls,
        model: Any,
        *,
        tokenizer: Any = None,
        dtype: str | None = None,
        device: torch.device | None = None,
        **options: Any,
    ) -> Self:
        """Load a model and its tokenizer.

        Args:
            model: A folder, a hub id, or a loaded model, which stays as and where it is.
            tokenizer: Likewise. Default: the model's.
            dtype: "float32", "bfloat16" or "float16". Default: the checkpoint's; on the CPU, float32.
            device: Where the model goes. Default: the CPU.
            **options: Of `CellEncoder`.
        """
        loaded = load_model(model, dtype=dtype, device=device)
        return cls(loaded, load_tokenizer(tokenizer, loaded), **options)

    @property
    def length(self) -> int:
        """Most tokens of a cell."""
        config = self.model.config.get_text_config()
        return getattr(config, "max_position_embeddings", None) or self.tokenizer.model_max_length

    @property
    def embedding_dim(self) -> int:
        """Width of an embedding: of the cell, and of its context."""
        config = self.model.config.get_text_config()
        return getattr(config, "embedding_dim", None) or config.hidden_size

    def evaluating(self) -> AbstractContextManager[None]:
        """Hold the model in evaluation mode."""
        return evaluation_mode(self.model)

    def encode(
        self, counts: Any, genes: GeneReport, *, input_type: InputType, first_cell: int, name: str
    ) -> dict[str, torch.Tensor]:
        """Encode cells that follow each other in a data set, with the tokenizer's options, seed and length.

        Args:
            counts: (cells, genes) matrix.
            genes: How its columns map to the vocabulary.
            input_type: "counts" or "log1p".
            first_cell: Position of the first of them in the data set.
            name: What messages call the data set.

        Raises:
            ValueError: They cannot be encoded (the message names the cells).
        """
        try:
            encoding = self.tokenizer.encode_cells(
                counts,
                genes,
                input_type=input_type,
                seed=self.seed,
                first_cell=first_cell,
                max_length=self.length,
                **self.encoding,
            )
        except ValueError as error:
            cells = f"Cells {first_cell} to {first_cell + counts.shape[0] - 1} of {name}"
            raise ValueError(f"{cells}: {error}") from error
        return dict(encoding)

    def states(self, encoding: Mapping[str, torch.Tensor], *, output_genes: bool = False) -> CellStates:
        """What the model says of a batch of cells.

        Args:
            encoding: Of `tokenizer.encode_cells`, on any device.
            output_genes: Whether to give the state of every token, too.
        """
        inputs = {name: encoding[name].to(self.model.device) for name in encoding}
        rows = self.tokenizer.gene_rows({"input_ids": encoding["input_ids"].cpu()})
        model: Any = self.model
        if hasattr(model, "get_cell_features"):
            features = model.get_cell_features(**inputs, output_genes=output_genes)
            return CellStates(features.pooler_output, features.context, features.last_hidden_state, rows)
        output = model(**inputs, output_hidden_states=self.hidden_layer != -1)
        hidden = output.last_hidden_state if self.hidden_layer == -1 else output.hidden_states[self.hidden_layer]
        return CellStates(self._pooled(hidden, encoding, rows), None, hidden if output_genes else None, rows)

    def _pooled(
        self, hidden: torch.Tensor, encoding: Mapping[str, torch.Tensor], gene_rows: torch.Tensor
    ) -> torch.Tensor:
        if self.tokenizer.cell_pooling == "first":
            return hidden[:, 0]
        if self.tokenizer.cell_pooling == "last":
            mask = encoding.get("attention_mask")
            last = torch.full((len(hidden),), hidden.shape[1] - 1) if mask is None else mask.sum(dim=1).cpu() - 1
            return hidden[torch.arange(len(hidden)), last.to(hidden.device)]
        if self.tokenizer.cell_pooling == "mean_all":
            mask = encoding.get("attention_mask")
            kept = torch.ones_like(gene_rows) if mask is None else mask
        else:
            kept = gene_rows >= 0
        genes = kept.to(hidden.device)
        weights = genes / genes.sum(dim=1, keepdim=True).clamp(min=1)
        return (hidden * weights.to(hidden.dtype)[..., None]).sum(dim=1)

    def embed(
        self,
        cells: CellMatrix,
        genes: GeneReport,
        *,
        input_type: InputType,
        ranges: Iterable[tuple[int, int]],
        part: Part = "embedding",
        progress: Callable[[int], Any] = lambda cells: None,
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Embed ranges of cells. The model has to be in evaluation mode.

        Args:
            cells: The expression of the data.
            genes: How its genes map to the vocabulary.
            input_type: "counts" or "log1p".
            ranges: First cell and end of every block.
            part: What is kept of each cell.
            progress: Called with a number of cells when they have gone through the model.

        Yields:
            First cell and rows (cells, dimensions), float32, of every block; blocks may change places.

        Raises:
            ValueError: A block cannot be tokenized, or the model's output is not finite (the message names the cells).
        """

        def read(bounds: tuple[int, int]) -> tuple[int, Any]:
            return bounds[0], cells.block(*bounds)

        def encode(block: tuple[int, Any]) -> tuple[int, dict[str, torch.Tensor]]:
            start, counts = block
            return start, self.encode(counts, genes, input_type=input_type, first_cell=start, name=cells.name)

        for start, encoding in read_ahead(ranges, read, encode, workers=self.workers):
            embedding = self._embed_block(encoding, part, progress)
            self._check_finite(embedding, cells, start)
            yield start, embedding

    def _embed_block(self, encoding: dict[str, torch.Tensor], part: Part, progress: Callable[[int], Any]) -> np.ndarray:
        lengths = encoding["attention_mask"].sum(dim=1).numpy()
        finished: list[tuple[np.ndarray, torch.Tensor]] = []
        for batch, embedding in self.in_batches(lengths, lambda batch: self._forward(encoding, batch, part)):
            finished.append((batch, embedding))
            progress(len(batch))
        result = torch.empty(len(lengths), finished[0][1].shape[1])
        for batch, embedding in finished:
            result[torch.from_numpy(batch)] = embedding
        return result.numpy()

    def in_batches(
        self, lengths: np.ndarray, run: Callable[[np.ndarray], Result]
    ) -> Iterator[tuple[np.ndarray, Result]]:
        """Run something for all cells, in batches that fit into the device's memory.

        Args:
            lengths: (cells,). Tokens of every cell.
            run: Called with the positions of the cells of a batch; where it runs out of memory, with fewer.

        Yields:
            Positions of the cells of a batch, longest first, and what `run` gave for them.
        """
        waiting = list(self.limit.batches(lengths))[::-1]
        while waiting:
            batch = waiting.pop()
            try:
                with torch.inference_mode():
                    result = run(batch)
            except RuntimeError as error:
                if len(batch) == 1 or not should_reduce_batch_size(error):
                    raise
            else:
                yield batch, result
                continue
            longest = int(lengths[batch].max())
            self.limit.halve(len(batch), len(batch) * longest)
            logger.warning(
                f"{len(batch)} cells of {longest} tokens do not fit into the memory of {self.model.device}: "
                f"going on with at most {self.limit.cells} cells in a batch"
            )
            left = np.concatenate([batch, *waiting[::-1]])
            waiting = [left[rows] for rows in self.limit.batches(lengths[left])][::-1]

    def _forward(self, encoding: dict[str, torch.Tensor], batch: np.ndarray, part: Part) -> torch.Tensor:
        return self.kept(trimmed(encoding, batch), part).float().cpu()

    def kept(self, inputs: dict[str, torch.Tensor], part: Part) -> torch.Tensor:
        """(cells, numbers) what is kept of each cell of a batch."""
        if part in ("logits", "head_inputs"):
            model: Any = self.model
            inputs = {name: tensor.to(model.device) for name, tensor in inputs.items()}
            return model(**inputs).logits if part == "logits" else head_inputs(model, inputs)
        return getattr(self.states(inputs), part)

    def _check_finite(self, embedding: np.ndarray, cells: CellMatrix, start: int) -> None:
        broken = np.flatnonzero(~np.isfinite(embedding).all(axis=1))
        if len(broken):
            names = cells.cells.cell_names(start, start + len(embedding))[broken[:5]]
            raise ValueError(
                Advised(
                    f"The model's output is not finite for {len(broken)} of the cells {start} to "
                    f"{start + len(embedding) - 1} of {cells.name}, among them {', '.join(map(repr, map(str, names)))}",
                    "check the weights for NaN",
                    "compute in full precision, if they run in float16 (dtype='float32')",
                )
            )


def trimmed(
    encoding: Mapping[str, torch.Tensor], cells: np.ndarray, *, keep_mask: bool = False
) -> dict[str, torch.Tensor]:
    """Some cells of an encoding, without the padding that all of them have.

    Args:
        encoding: Of `encode_cells`.
        cells: Positions of the cells.
        keep_mask: Whether the mask stays where cells are of one length: it costs the attention its fastest kernels.
    """
    rows = torch.from_numpy(cells)
    mask = encoding["attention_mask"][rows]
    longest = int(mask.sum(dim=1).max())
    inputs = {name: tensor[rows, :longest] for name, tensor in encoding.items()}
    if not keep_mask and bool(mask[:, :longest].all()):
        del inputs["attention_mask"]
    return inputs


def _check_hidden_layer(hidden_layer: Any, model: PreTrainedModel) -> None:
    if hasattr(model, "get_cell_features"):
        raise ValueError(
            f"hidden_layer is {hidden_layer!r}, but a {type(model).__name__} says itself what a cell is: leave it out."
        )
    number = model.config.get_text_config().num_hidden_layers + 1
    if not isinstance(hidden_layer, int) or not -number <= hidden_layer < 0:
        raise ValueError(f"hidden_layer is {hidden_layer!r}; the model has the layers -1 (last) to {-number} (input).")


__all__ = ["BatchLimit", "BatchSize", "CellEncoder", "CellStates", "Part", "trimmed"]
