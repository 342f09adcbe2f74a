"""The transformers pipeline "cell-embedding": AnnData in, one embedding a cell out."""

from pathlib import Path
from typing import Any

import anndata
import numpy as np
from transformers import Pipeline

from state_hf.inference.cell_encoder import BatchSize, CellEncoder
from state_hf.inference.embedding_task import DeclaredInputType, embed_in_memory, inspect_source


class CellEmbeddingPipeline(Pipeline):
    """Embeds the cells of AnnData objects or files.

    Returns one float32 array (cells, embedding_dim) for each, and changes neither; `state_hf.embed` writes files, goes
    on where it was interrupted, and keeps memory constant for any number of cells.

    Args (of the call, or of `pipeline(...)` as defaults for all calls):
        inputs: An AnnData object, the path of an .h5ad file or .zarr store, or a list of such.
        batch_size: Cells that go through the model at once. Default: chosen by the device's memory.
        layer, gene_column, input_type, seed, workers, and the tokenizer's own options: As in `state_hf.embed`.

    Example:
        >>> from transformers import pipeline
        >>> embedder = pipeline("cell-embedding", model=folder)
        >>> embedder("pbmc.h5ad", layer="counts").shape
        (2638, 2058)
    """

    _load_tokenizer = True  # type: ignore[assignment]

    def _sanitize_parameters(self, **parameters: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        return parameters, {}, {}

    def __call__(self, inputs: Any, *, batch_size: int | None = None, **parameters: Any) -> Any:  # type: ignore[override]
        """Embed the cells of one input, or of each of a list."""
        if isinstance(inputs, list | tuple):
            return [self(one, batch_size=batch_size, **parameters) for one in inputs]
        # The base class batches inputs; here, a single input is batched by its cells.
        cells_at_once = batch_size or self._batch_size or "auto"
        return super().__call__(inputs, cells_at_once=cells_at_once, **parameters)

    def preprocess(  # type: ignore[override]
        self,
        input_: anndata.AnnData | str | Path,
        *,
        cells_at_once: BatchSize = "auto",
        layer: str | None = None,
        gene_column: str | None = None,
        input_type: DeclaredInputType = "counts",
        seed: int = 0,
        workers: int = 1,
        **encoding: Any,
    ) -> dict[str, Any]:
        """Look up the genes and check the scale of the values; cells are read while they are embedded."""
        encoder = CellEncoder.from_pretrained(
            self.model, tokenizer=self.tokenizer, batch_size=cells_at_once, seed=seed, workers=workers, **encoding
        )
        task = inspect_source(
            input_ if isinstance(input_, anndata.AnnData) else Path(input_),
            encoder,
            layer=layer,
            gene_column=gene_column,
            input_type=input_type,
            model={"name": self.model.config.name_or_path, "sha256": ""},
            for_file=False,
        )
        return {"task": task, "encoder": encoder}

    def _forward(  # type: ignore[override]
        self, input_tensors: dict[str, Any], **forward_parameters: Any
    ) -> dict[str, np.ndarray]:
        return {"embedding": embed_in_memory(input_tensors["task"], input_tensors["encoder"])}

    def postprocess(self, model_outputs: dict[str, np.ndarray], **postprocess_parameters: Any) -> np.ndarray:
        """The embedding (cells, embedding_dim)."""
        return model_outputs["embedding"]
