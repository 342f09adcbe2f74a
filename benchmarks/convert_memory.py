"""Memory and time of converting a checkpoint of the size of SE-600M, with its optimizer's state.

    python benchmarks/convert_memory.py FOLDER [--num_hidden_layers 16 --num_genes 19790]

FOLDER takes about 14 GB: the checkpoint (8 GB for the default sizes), and the converted model. The conversion runs in a
process of its own, whose peak is compared with the largest tensor. `baseline` is a process that only imports.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import torch

from state_hf import StateEmbeddingConfig
from state_hf.conversion.weight_accounting import original_shapes
from state_hf.modeling.state_embedding import StateEmbeddingForMaskedExpression

CONVERT = "from state_hf.conversion.convert import convert; convert({!r}, {!r}, overwrite=True)"
IMPORT = "import state_hf.conversion.convert"


def write_checkpoint(path: Path, config: StateEmbeddingConfig) -> int:
    """A Lightning checkpoint of zeros: weights, gene embeddings and Adam's two moments. Returns its largest tensor."""
    shapes = original_shapes(StateEmbeddingForMaskedExpression, config)
    table = shapes.pop("pe_embedding.weight")
    largest = max(torch.Size(shape).numel() for shape in (*shapes.values(), table))
    hollow = path.with_suffix(".zeros")
    with hollow.open("wb") as file:
        file.truncate(4 * largest)

    def zeros(*shape: int) -> torch.Tensor:
        """Zeros with a storage of their own, which take no memory: they are mapped from a file without content."""
        return torch.from_file(str(hollow), size=torch.Size(shape).numel()).view(shape)

    state = {name: zeros(*shape) for name, shape in shapes.items()}
    moments = {
        number: {"step": torch.tensor(1.0), "exp_avg": zeros(*shape), "exp_avg_sq": zeros(*shape)}
        for number, shape in enumerate(shapes.values())
    }
    arguments = {"nhead": config.num_attention_heads, "d_model": config.hidden_size}
    content = {
        "state_dict": {**state, "pe_embedding.weight": zeros(*table)},
        "hyper_parameters": arguments,
        "protein_embeds_dict": {f"GENE{row}": torch.zeros(table[1]) for row in range(table[0])},
        "optimizer_states": [{"state": moments}],
    }
    torch.save(content, path)
    hollow.unlink()
    return 4 * largest


def peak_of(code: str) -> tuple[float, float]:
    """Peak memory in MB and seconds of a Python process."""
    # Linux's own account of the process: that of `resource` begins with the parent's.
    code += "; print(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')).split()[1])"
    begin = time.perf_counter()
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    return float(output.split()[-1]) * 1024 / 1e6, time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--num_hidden_layers", type=int, default=16)
    parser.add_argument("--num_genes", type=int, default=19790)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    config = StateEmbeddingConfig(num_hidden_layers=arguments.num_hidden_layers, num_genes=arguments.num_genes)
    checkpoint = arguments.folder / "se.ckpt"
    largest = write_checkpoint(checkpoint, config) / 1e6
    own, _ = peak_of(IMPORT)
    peak, seconds = peak_of(CONVERT.format(str(checkpoint), str(arguments.folder / "model")))
    print(f"checkpoint {checkpoint.stat().st_size / 1e9:.2f} GB, largest tensor {largest:.0f} MB")
    print(f"peak {peak:.0f} MB, of which {own:.0f} MB are imports: {(peak - own) / largest:.2f} x the largest tensor")
    print(f"{seconds:.0f} s, {checkpoint.stat().st_size / 1e6 / seconds:.0f} MB of checkpoint a second")


if __name__ == "__main__":
    sys.exit(main())
