"""Fixtures shared by the whole suite."""

from pathlib import Path

import pytest

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real single-cell data, on the machines that have it."""
    if not SHARED_DATA.is_dir():
        pytest.skip("no ../shared/data on this machine")
    return SHARED_DATA
