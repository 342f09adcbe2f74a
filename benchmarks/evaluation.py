"""Whole evaluations, profile by profile: ours against cell-eval (vcc2025, full) and cell-eval2 (vcc2026), in turns.

    python benchmarks/evaluation.py --cell-eval-python ENV/bin/python --cell-eval2-python ENV2/bin/python
        [--sizes a b c] [--profiles vcc2025 full vcc2026] [--repeats 3]

Without the interpreters, ours alone is measured. All read the same screens into memory and compile on a tiny pair
before the clock starts. `--again` adds ours a second time with its cache, as in the second evaluation of a day.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from perturbation_screens import SIZES, write_pair
from timed_process import compare

OURS = """
import anndata, shutil, tempfile
from state_hf import evaluate_predictions

profile, again, streamed = sys.argv[1], "again" in sys.argv, "streamed" in sys.argv
tiny = [anndata.read_h5ad(path) for path in sys.argv[2:4]]
evaluate_predictions(*tiny, profile, on_error="nan")
cells = sys.argv[4:6] if streamed else [anndata.read_h5ad(path) for path in sys.argv[4:6]]
cache = tempfile.mkdtemp() if again else None
if again:
    evaluate_predictions(*cells, profile, cache_dir=cache)
measure(lambda: evaluate_predictions(*cells, profile, cache_dir=cache))
if again:
    shutil.rmtree(cache)
"""

CELL_EVAL = """
import anndata, logging, tempfile
from cell_eval import MetricsEvaluator

def evaluate(paths):
    cells = [anndata.read_h5ad(path) for path in paths]
    def call():
        with tempfile.TemporaryDirectory() as folder:
            evaluator = MetricsEvaluator(*cells, control_pert="non-targeting", pert_col="target_gene", outdir=folder)
            evaluator.compute(profile={"vcc2025": "vcc"}.get(sys.argv[1], sys.argv[1]), write_csv=False)
    return call

evaluate(sys.argv[2:4])()
measure(evaluate(sys.argv[4:6]))
"""

CELL_EVAL2 = """
import anndata
from dataclasses import replace
from cell_eval2 import aggregate_metrics, compute_metrics
from cell_eval2.config import EvalConfig
from cell_eval2.run import metric_output_names

config = replace(EvalConfig.from_preset("vcc2026"), pert_col="target_gene")

def evaluate(paths, **options):
    cells = [anndata.read_h5ad(path) for path in paths]
    def call():
        values = compute_metrics(*cells, config=config)
        try:
            aggregate_metrics(values, metrics=metric_output_names(config))
        except ValueError:
            print("no aggregate", file=sys.stderr)
    return call

evaluate(sys.argv[2:4])()
measure(evaluate(sys.argv[4:6]))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cell-eval-python", help="an interpreter that has cell-eval")
    parser.add_argument("--cell-eval2-python", help="an interpreter that has cell-eval2")
    parser.add_argument("--sizes", nargs="+", choices=[name for name in SIZES if name != "tiny"], default=["a", "b"])
    parser.add_argument("--profiles", nargs="+", default=["vcc2025", "full", "vcc2026"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--again", action="store_true", help="also ours with what a first evaluation cached")
    parser.add_argument("--streamed", action="store_true", help="also ours from the files, block by block")
    parser.add_argument("--folder", type=Path, help="where generated screens are kept (default: a temporary folder)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        for name in arguments.sizes:
            for profile in arguments.profiles:
                measure_profile(folder, name, profile, arguments)


def measure_profile(folder: Path, name: str, profile: str, arguments: argparse.Namespace) -> None:
    lognorm = profile != "vcc2026"
    tiny, cells = (write_pair(folder, size, lognorm=lognorm) for size in ("tiny", name))
    print(f"{name}, {profile}: {SIZES[name]}", flush=True)
    ours = f"ours:{sys.executable}"
    contestants = {"state-hf": (ours, OURS)}
    if arguments.again:
        contestants["again"] = (ours, 'import sys; sys.argv.append("again")' + OURS)
    if arguments.streamed:
        contestants["streamed"] = (ours, 'import sys; sys.argv.append("streamed")' + OURS)
    peer = arguments.cell_eval_python if lognorm else arguments.cell_eval2_python
    if peer:
        contestants["cell-eval" if lognorm else "cell-eval2"] = (peer, CELL_EVAL if lognorm else CELL_EVAL2)
    compare(contestants, [profile, *map(str, tiny), *map(str, cells)], arguments.repeats)


if __name__ == "__main__":
    main()
