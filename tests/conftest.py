"""Fixtures shared by the whole suite."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

# Sums are the same to the bit only with the same number of threads, here and in the processes that tests start; numba,
# which scanpy brings, would set torch's number to its own. More than one would only wait for each other over tiny
# models; `make test-portable` asks for two.
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = os.environ.get("TEST_THREADS", "1")
os.environ["NUMBA_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"]
# torch's compiler would take what it compiled for another setting of the same processor, and fail on it.
os.environ["TORCHINDUCTOR_CACHE_DIR"] = os.environ.get("TORCHINDUCTOR_CACHE_DIR") or (
    f"{tempfile.gettempdir()}/torchinductor_{getattr(os, 'getuid', int)()}_{os.environ.get('ATEN_CPU_CAPABILITY', '')}"
)

import pytest
from hypothesis import settings

# How long an example takes says more of the machine's other work than of the code.
settings.register_profile("no deadline", deadline=None)
settings.register_profile("fuzz", deadline=None, max_examples=int(os.environ.get("CASES", "10000")))
settings.load_profile("no deadline")

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real single-cell data, on the machines that have it."""
    if not SHARED_DATA.is_dir():
        pytest.skip("no ../shared/data on this machine")
    return SHARED_DATA


@pytest.fixture(autouse=True, scope="session")
def evaluate_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache of evaluate's for this process: what it loads is a package, which Python looks up in one place only."""
    folder = tmp_path_factory.mktemp("evaluate")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("evaluate.config.HF_MODULES_CACHE", str(folder / "modules"))
        patch.setattr("evaluate.config.HF_METRICS_CACHE", str(folder / "metrics"))
        patch.setattr("evaluate.config.HF_EVALUATE_OFFLINE", True)
        patch.setattr("datasets.config.HF_HUB_OFFLINE", True)
        yield


@pytest.fixture(scope="session")
def screen_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small generated screen, log1p-normalised, with its counts in a layer."""
    from tests.screen_models import normalised_screen

    path = tmp_path_factory.mktemp("screen") / "screen.h5ad"
    normalised_screen().write_h5ad(path)
    return path


@pytest.fixture(scope="session")
def split(screen_path: Path):
    """Its split: one cell type each to train, validate and test."""
    from state_hf import PerturbationSplit, open_screens
    from state_hf.data.screens.split_definition import zeroshot_split

    screens = open_screens(screen_path)
    return PerturbationSplit(screens, zeroshot_split(screens, val=["type_2"], test=["type_3"]))


@pytest.fixture(scope="session")
def vocabulary(split):
    """Its names."""
    from tests.screen_models import vocabulary_of

    return vocabulary_of(split)
