"""Cells and models, shared with the tests of the pipelines."""

from tests.pipelines.conftest import tiny_model  # noqa: F401
