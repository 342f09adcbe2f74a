"""Run the numeric tests as other processors would: `python -m tests.portable [--settings NAME ...] [FOLDER ...]`.

NumPy, torch, oneDNN, MKL, OpenBLAS, numba and the C library (whose exp and log compiled loops call) each choose their
instructions by the processor they find, and can be told to take it for a lesser one. A setting that this processor
cannot take is skipped, by name.
"""

import argparse
import os
import platform
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
_ROOMS = (
    "metrics",
    "modeling",
    "training",
    "tokenization",
    "gene_embeddings",
    "conversion",
    "devices",
    "data",
    "inference",
    "analysis",
    "pipelines",
)
NUMERIC = [f"tests/{room}" for room in _ROOMS]
# What torch calls the sets of instructions, from the least on.
_LEVELS = ("DEFAULT", "AVX2", "AVX512")


@dataclass(frozen=True)
class Setting:
    """One way for the libraries to see the processor.

    Args:
        what: What it stands for.
        needs: The least processor for which it is another one.
        environment: Variables of the libraries.
        numpy_off: Beginnings of the names of NumPy's instruction sets that are turned off.
        threads: Threads of OpenMP, OpenBLAS and numba.
    """

    what: str
    needs: str = "DEFAULT"
    environment: dict[str, str] = field(default_factory=dict)
    numpy_off: tuple[str, ...] = ()
    threads: int = 1

    def variables(self) -> dict[str, str]:
        """The environment, with the names of NumPy's instruction sets as the installed one spells them."""
        found = np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])
        off = [name for name in found if name.startswith(self.numpy_off)] if self.numpy_off else []
        numpy = {"NPY_DISABLE_CPU_FEATURES": " ".join(off)} if off else {}
        return {**self.environment, **numpy, "TEST_THREADS": str(self.threads)}


_AVX512 = ("AVX512", "X86_V4")
_AVX2 = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "NUMBA_CPU_NAME": "haswell",
    "NUMBA_CPU_FEATURES": "+avx2,+fma",
}
SETTINGS = {
    "native": Setting("the processor as it is"),
    "threads": Setting("the same, two threads", threads=2),
    "baseline": Setting(
        "a processor of 2008: SSE 4.2 at most",
        environment={
            "ATEN_CPU_CAPABILITY": "default",
            "ONEDNN_MAX_CPU_ISA": "SSE41",
            "MKL_CBWR": "COMPATIBLE",
            "OPENBLAS_CORETYPE": "Nehalem",
            "NUMBA_CPU_NAME": "nehalem",
            "NUMBA_CPU_FEATURES": "",
            "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX2,-FMA,-AVX2_Usable,-FMA_Usable",
        },
        numpy_off=("",),
    ),
    "avx2": Setting("AVX2, Intel", "AVX2", {**_AVX2, "OPENBLAS_CORETYPE": "Haswell"}, _AVX512),
    "zen": Setting("AVX2, AMD, two threads", "AVX2", {**_AVX2, "OPENBLAS_CORETYPE": "Zen"}, _AVX512, threads=2),
    "avx512": Setting(
        "AVX-512 without AMX",
        "AVX512",
        {
            "ATEN_CPU_CAPABILITY": "avx512",
            "ONEDNN_MAX_CPU_ISA": "AVX512_CORE",
            "MKL_ENABLE_INSTRUCTIONS": "AVX512",
            "OPENBLAS_CORETYPE": "SkylakeX",
        },
    ),
    "numpy": Setting("NumPy alone without AVX-512", "AVX512", numpy_off=_AVX512),
}


def _level() -> str:
    """What torch finds, in a process of its own where nothing is turned off."""
    command = [sys.executable, "-c", "import torch; print(torch.backends.cpu.get_cpu_capability())"]
    plain = {name: value for name, value in os.environ.items() if name != "ATEN_CPU_CAPABILITY"}
    return subprocess.run(command, env=plain, capture_output=True, text=True, check=True).stdout.strip()


def lacking(setting: Setting) -> str | None:
    """Why this machine cannot take a setting; None if it can."""
    if setting.environment and platform.machine() not in ("x86_64", "AMD64"):
        return f"this processor is no x86 ({platform.machine()})"
    if setting.needs == _LEVELS[0]:
        return None
    found = _level()
    level = max((number for number, name in enumerate(_LEVELS) if found.startswith(name)), default=0)
    enough = level >= _LEVELS.index(setting.needs)
    return None if enough else f"this processor has no {setting.needs} (torch finds {found})"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", default=NUMERIC, metavar="FOLDER")
    parser.add_argument("--settings", nargs="*", choices=list(SETTINGS), default=list(SETTINGS), metavar="NAME")
    parser.add_argument("--processes", default="2")
    arguments = parser.parse_args()
    rows, failed = [], False
    for name in arguments.settings or SETTINGS:
        setting = SETTINGS[name]
        if reason := lacking(setting):
            rows.append((name, setting.what, f"skipped: {reason}"))
            continue
        variables = setting.variables()
        print(f"\n== {name}: {setting.what}")
        print(f"   {' '.join(f'{key}={value!r}' for key, value in variables.items())}", flush=True)
        start = time.monotonic()
        command = [sys.executable, "-m", "pytest", "-q", "-n", arguments.processes, *arguments.folders]
        code = subprocess.run(command, cwd=ROOT, env={**os.environ, **variables}, check=False).returncode
        failed |= code != 0
        verdict = "passed" if code == 0 else f"FAILED (pytest ended with {code})"
        rows.append((name, setting.what, f"{verdict} in {time.monotonic() - start:.0f} s"))
    print(f"\n{' '.join(arguments.folders)}")
    for name, what, verdict in rows:
        print(f"{name:10} {what:40} {verdict}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
