"""Checkpoints as arc-state wrote them, converted once."""

from pathlib import Path

import pytest

from state_hf.conversion.convert import convert

FIXTURES = Path(__file__).parents[1] / "fixtures"
STATE_EMBEDDING = FIXTURES / "conversion" / "state_embedding"
STATE_TRANSITION = FIXTURES / "conversion" / "state_transition"


@pytest.fixture(scope="session")
def converted(tmp_path_factory):
    """Converts a fixture's folder, the first time that it is asked for."""
    folder = tmp_path_factory.mktemp("converted")

    def of(source: Path) -> Path:
        output = folder / source.name
        if not output.exists():
            convert(source, output, unnamed_genes=True)
        return output

    return of
