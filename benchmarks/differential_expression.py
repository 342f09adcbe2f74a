"""Differential expression of a whole screen: ours against pdex (cell-eval's engine), in turns.

    python benchmarks/differential_expression.py --cell-eval-python ENV/bin/python [--sizes a b c] [--repeats 3]

Both read the same log-normalised screen into memory and compile on a tiny one before the clock starts.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from perturbation_screens import SIZES, write_pair
from timed_process import compare

OURS = """
import anndata
from state_hf import differential_expression

tiny, cells = (anndata.read_h5ad(path) for path in sys.argv[1:3])
differential_expression(tiny)
measure(lambda: differential_expression(cells))
"""

PDEX = """
import anndata
from pdex import pdex

tiny, cells = (anndata.read_h5ad(path) for path in sys.argv[1:3])
options = dict(groupby="target_gene", mode="ref", reference="non-targeting", is_log1p=True, epsilon=0.0)
pdex(tiny, **options)
measure(lambda: pdex(cells, **options))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cell-eval-python", required=True, help="an interpreter that has cell-eval")
    parser.add_argument("--sizes", nargs="+", choices=[name for name in SIZES if name != "tiny"], default=["a", "b"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where generated screens are kept (default: a temporary folder)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        tiny = write_pair(folder, "tiny", lognorm=True)[1]
        for name in arguments.sizes:
            cells = write_pair(folder, name, lognorm=True)[1]
            print(f"{name}: {SIZES[name]}", flush=True)
            contestants = {"state-hf": (f"ours:{sys.executable}", OURS), "pdex": (arguments.cell_eval_python, PDEX)}
            compare(contestants, [str(tiny), str(cells)], arguments.repeats)


if __name__ == "__main__":
    main()
