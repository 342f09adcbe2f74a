"""What every fuzzed case has to keep within: a process may not swell, and no case may hang."""

import resource
import tempfile
from pathlib import Path

import pytest

# A reader of a few kilobytes of damage needs none of it; an allocation beyond it fails where it is asked for.
_MOST_MEMORY = 3 * 2**30
_MOST_GROWTH = 2**29


def _address_space() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


def _peak_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.fixture(autouse=True)
def bounded_memory():
    """Caps what the process may map during a test, and fails the test if it came to hold half a gigabyte more."""
    if not Path("/proc/self/statm").exists():
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    before = _peak_memory()
    resource.setrlimit(resource.RLIMIT_AS, (_address_space() + _MOST_MEMORY, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    assert _peak_memory() - before < _MOST_GROWTH


@pytest.fixture(scope="module")
def folder():
    """A folder in memory, where there is one: ten thousand files a test are too many for a disk."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as name:
        yield Path(name)
