"""Run the benchmarks one after another and write docs/benchmarks.md with what they measured

    python benchmarks/run_all.py [--quick] [--resume] [--only NAME ...] [--device cuda] [--folder DATA]

What a benchmark measured is kept in `benchmarks/.results/`; `--resume` takes from there every case that an
earlier run finished.
`--quick` shows in minutes that everything runs, and writes its page beside its results. The peers' environments are
built under `benchmarks/.peers/` when they are first needed; `--peer-python` names ones that exist.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import growth_page
from benchmark_page import page
from turns import ROOT

HERE = Path(__file__).parent
BENCHMARKS = (
    "evaluation",
    "differential_expression",
    "tokenizer",
    "rank_values",
    "geneformer_embedding",
    "embed_overhead",
    "state_embedding_forward",
    "state_transition_step",
    "energy_distance",
    "perturbation_loader",
    "preprocess",
    "conversion",
    "import_time",
    "install_size",
    "growth",
)
"""In the order in which they are run, and shown."""


def machine_in_words() -> str:
    """Processor, memory and system, without the machine's name."""
    info = Path("/proc/cpuinfo")
    models = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    model = models[0].split(":", 1)[1].strip() if models else platform.machine()
    gigabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{len(os.sched_getaffinity(0))} cores ({model}), {gigabytes:.0f} GB, Python {platform.python_version()}"


def run(name: str, results: Path, arguments: argparse.Namespace) -> str | None:
    """Run a benchmark. Returns why it has no result, if it has none."""
    command = [sys.executable, str(HERE / f"{name}.py"), "--results", str(results), "--device", arguments.device]
    command += ["--threads", str(arguments.threads)]
    command += [f"--{option}" for option in ("quick", "resume") if getattr(arguments, option)]
    command += [word for pair in arguments.peer_python for word in ("--peer-python", pair)]
    command += ["--folder", str(arguments.folder)] if arguments.folder else []
    try:
        done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT / "src")}, timeout=arguments.limit)
    except subprocess.TimeoutExpired:
        return f"took more than {arguments.limit / 60:.0f} minutes"
    return f"ended with status {done.returncode}" if done.returncode else None


def write_page(folder: Path, output: Path, failed: dict[str, str]) -> None:
    """Write the page of all results in a folder."""
    results: dict[str, Any] = {}
    missing = {}
    for name in BENCHMARKS:
        kept = folder / f"{name}.json"
        if kept.exists():
            results[name] = json.loads(kept.read_text())
        if name not in results:
            missing[name] = failed.get(name, "not run")
        elif not results[name]["complete"]:
            missing[name] = f"the cases that are not below ({failed.get(name, 'interrupted')})"
    if not results:
        return
    lines: list[str] = []
    if growth := results.pop("growth", None):
        images = output.parent / "images"
        images.mkdir(exist_ok=True)
        growth_page.draw(growth, images / "growth.png")
        lines = growth_page.section(growth)
    output.write_text(page(results, missing, machine_in_words(), lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes and few repeats")
    parser.add_argument("--resume", action="store_true", help="keep the results of benchmarks that are finished")
    parser.add_argument(
        "--only", nargs="*", choices=BENCHMARKS, default=BENCHMARKS, help="which to run; none: only write the page"
    )
    parser.add_argument("--threads", type=int, default=1, help="of each contestant")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--limit", type=float, default=3600, help="seconds that one benchmark may take")
    parser.add_argument("--peer-python", action="append", default=[], metavar="ENVIRONMENT=PYTHON")
    parser.add_argument("--folder", type=Path, help="where generated data are kept (default: a temporary folder)")
    arguments = parser.parse_args()
    results = HERE / ".results" / (f"quick-{arguments.device}" if arguments.quick else arguments.device)
    results.mkdir(parents=True, exist_ok=True)
    # A page of a few minutes, or of a GPU alone, does not replace the one that is published.
    published = not arguments.quick and arguments.device == "cpu"
    output = ROOT / "docs" / "benchmarks.md" if published else results / "benchmarks.md"
    failed: dict[str, str] = {}
    for name in arguments.only:
        kept = results / f"{name}.json"
        if arguments.resume and kept.exists() and json.loads(kept.read_text())["complete"]:
            continue
        print(f"== {name}", flush=True)
        if not arguments.resume:
            kept.unlink(missing_ok=True)
        why = run(name, kept, arguments)
        if why:
            failed[name] = why
        write_page(results, output, failed)
    write_page(results, output, failed)
    print(f"wrote {output.relative_to(ROOT)}")
    if failed:
        sys.exit("; ".join(f"{name} {why}" for name, why in failed.items()))


if __name__ == "__main__":
    main()
