"""The blocks of a data set's embedding that are still missing, computed by all processes together."""

from pathlib import Path
from typing import Any

from transformers.utils import logging

from state_hf.configuration.advice import Advised
from state_hf.data.cells.open_cells import open_cells
from state_hf.data.partial_results import PartialResults
from state_hf.inference.cell_encoder import CellEncoder, Part
from state_hf.inference.embedding_task import EmbeddingTask
from state_hf.inference.processes import Processes


def progress_bar(task: EmbeddingTask, processes: Processes, *, done: int, total: int) -> Any:
    """A bar over the cells of a data set, shown by the main process."""
    share = f" (process 1 of {processes.count})" if processes.count > 1 else ""
    name = f"{Path(task.name).name}{share}"
    return logging.tqdm(total=total, initial=done, unit=" cells", desc=name, disable=not processes.is_main)


def embed_missing_blocks(
    task: EmbeddingTask, encoder: CellEncoder, folder: Path, processes: Processes, *, part: Part = "embedding"
) -> int:
    """Compute and store the missing blocks of a data set. Every process calls this; all return when all are done.

    Args:
        task: The data set.
        encoder: What embeds it, in evaluation mode.
        folder: The folder of blocks, started by the main process.
        processes: The processes that share the blocks.
        part: What is kept of each cell.

    Returns:
        How many cells were missing.

    Raises:
        ValueError: The data set changed while it was read, or a block cannot be embedded.
    """
    partial = PartialResults.open(folder)
    missing = partial.missing()
    # Nobody may finish a block before all have seen which ones are missing.
    processes.wait()
    ranges = [partial.bounds(block) for block in processes.share(missing)]
    left = sum(stop - start for start, stop in ranges)
    done = (task.num_cells - left) if processes.count == 1 else 0
    with open_cells(task.source).expression(task.layer) as cells:
        with progress_bar(task, processes, done=done, total=done + left) as bar:
            for start, rows in encoder.embed(
                cells, task.genes, input_type=task.input_type, ranges=ranges, part=part, progress=bar.update
            ):
                partial.write(start // partial.block_rows, rows)
        processes.wait()
        if cells.cells.fingerprint() != task.settings["input"]:
            raise ValueError(Advised(f"{task.name} changed while it was read", "start over (overwrite=True)"))
    return sum(stop - start for start, stop in map(partial.bounds, missing))


__all__ = ["embed_missing_blocks", "progress_bar"]
