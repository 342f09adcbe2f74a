"""Run one measurement in a process of its own, so that peak memory and imports are its own."""

import json
import os
import statistics
import subprocess
from collections.abc import Sequence
from pathlib import Path

# What every measured script begins with: `measure(call)` prints the seconds and the peaks of memory, in MB.
PRELUDE = """
import json, resource, sys, time, warnings
warnings.simplefilter("ignore")

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

def measure(call):
    before, start, used = peak(), time.perf_counter(), time.process_time()
    call()
    result = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - used}
    print("MEASURED " + json.dumps({**result, "inputs_mb": before, "peak_mb": peak()}), flush=True)
"""

ROOT = Path(__file__).parents[1]


def run(python: str, script: str, arguments: Sequence[str]) -> dict[str, float]:
    """Run a script under an interpreter. Returns what it measured."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")} if python.startswith("ours:") else os.environ
    command = [python.removeprefix("ours:"), "-c", PRELUDE + script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    lines = [line for line in done.stdout.splitlines() if line.startswith("MEASURED ")]
    if done.returncode or not lines:
        raise SystemExit(f"{command[0]} failed:\n{done.stderr[-2000:]}")
    return json.loads(lines[-1].removeprefix("MEASURED "))


def compare(contestants: dict[str, tuple[str, str]], arguments: Sequence[str], repeats: int) -> None:
    """Run contestants in turns, and print the median of each beside the first's."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in contestants}
    for _ in range(repeats):
        for name, (python, script) in contestants.items():
            found[name].append(run(python, script, arguments))
    medians = {
        name: {key: statistics.median(result[key] for result in results) for key in results[0]}
        for name, results in found.items()
    }
    ours = next(iter(medians.values()))
    for name, value in medians.items():
        print(
            f"  {name:<12} {value['seconds']:8.2f} s  ({value['seconds'] / ours['seconds']:5.1f} x)"
            f"  CPU {value['cpu_seconds']:8.2f} s ({value['cpu_seconds'] / ours['cpu_seconds']:5.1f} x)"
            f"  peak {value['peak_mb']:7,.0f} MB ({value['peak_mb'] / ours['peak_mb']:4.1f} x),"
            f" of which inputs {value['inputs_mb']:7,.0f} MB",
            flush=True,
        )
