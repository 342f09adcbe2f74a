"""The benchmarks are scripts beside the package: their folder is on the path while they are tested."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
