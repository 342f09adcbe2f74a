"""What the library logs, while a command runs: told on standard error, or kept back for the command to tell."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def told_on_stderr() -> Iterator[None]:
    """The library's messages, from INFO on, go to standard error."""
    logger = logging.getLogger("state_hf")
    handler = logging.StreamHandler(sys.stderr)
    logger.addHandler(handler)
    try:
        with _at_level(logger, logging.INFO):
            yield
    finally:
        logger.removeHandler(handler)


@contextmanager
def kept_back(module: str) -> Iterator[None]:
    """A module's notes and warnings are not logged: the command prints them in its own place."""
    with _at_level(logging.getLogger(module), logging.ERROR):
        yield


@contextmanager
def _at_level(logger: logging.Logger, level: int) -> Iterator[None]:
    # Whoever runs a command inside another program finds the levels as they were.
    before = logger.level
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(before)


__all__ = ["kept_back", "told_on_stderr"]
