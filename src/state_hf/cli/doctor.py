"""Print what this installation has: versions, devices, optional parts, and how to get what is missing.

example:
  state-hf doctor
"""

import argparse
import importlib.metadata
import os
import platform
import shutil
from pathlib import Path

from state_hf._version import __version__

_CORE = (
    "torch",
    "transformers",
    "accelerate",
    "datasets",
    "evaluate",
    "safetensors",
    "huggingface_hub",
    "scipy",
    "anndata",
    "numpy",
    "numba",
    "pandas",
)
_EXTRAS = {
    "scanpy": (("scanpy", "igraph", "leidenalg"), "the demo's figures, clustering_agreement, state-hf network"),
    "peft": (("peft",), "LoRA"),
    "search": (("optuna",), "`state-hf finetune --trials`"),
    "submission": (("zstandard",), "state-hf prep"),
    "formats": (("hdf5plugin",), "files of cells that are compressed with zstd, blosc, lz4 and others"),
    "fair-esm": (("fair-esm",), "ESM-2 weights in the original's format, for state-hf embed-genes"),
    "space": (("gradio",), "the web pages of the metrics"),
}
# What `state-hf[all]` leaves out: pages are served by whom they are made for, not by users of the commands.
_NOT_IN_ALL = ("space",)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add nothing: the command has no options."""


def run(arguments: argparse.Namespace) -> int:
    """Print the report. Returns 1 if a part that the package needs is missing."""
    print(f"state-hf {__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}")
    missing = [name for name in _CORE if _version(name) is None]
    print("\npackages")
    for name in _CORE:
        print(f"  {name:<16} {_version(name) or 'missing: pip install ' + name}")
    print("\noptional parts")
    for extra, (names, purpose) in _EXTRAS.items():
        absent = [name for name in names if _version(name) is None]
        state = f"missing: pip install 'state-hf[{extra}]'" if absent else "installed"
        print(f"  {extra:<16} {state} ({purpose})")
    print(f"  all but {', '.join(_NOT_IN_ALL)}: pip install 'state-hf[all]'")
    print("\ndevices")
    for line in _devices() if "torch" not in missing else ["unknown without torch"]:
        print(f"  {line}")
    print("\nHugging Face cache")
    for line in _cache():
        print(f"  {line}")
    if missing:
        print(f"\nNot ready: {', '.join(missing)} missing.")
    return 1 if missing else 0


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _devices() -> list[str]:
    import torch

    lines = []
    for number in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(number)
        lines.append(f"cuda:{number}  {gpu.name}, {gpu.total_memory / 2**30:.0f} GiB")
    if torch.backends.mps.is_available():
        lines.append("mps  Apple GPU")
    lines.append(f"cpu  {os.cpu_count()} cores, {torch.get_num_threads()} threads in torch{_bfloat16_on_cpu()}")
    return lines


def _bfloat16_on_cpu() -> str:
    flags = Path("/proc/cpuinfo")
    if not flags.is_file():
        return ""
    words = set(flags.read_text(encoding="utf-8", errors="replace").split())
    has = words & {"avx512_bf16", "amx_bf16", "bf16"}
    return "" if has else "; without bfloat16 instructions: prefer `state-hf embed --dtype float32`"


def _cache() -> list[str]:
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE)
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free / 2**30
    offline = "offline mode is on (HF_HUB_OFFLINE)" if constants.HF_HUB_OFFLINE else "offline mode is off"
    writable = "writable" if os.access(existing, os.W_OK) else "read-only: set HF_HOME to a folder of yours"
    return [f"{folder}: {writable}, {free:.0f} GiB free", offline]
