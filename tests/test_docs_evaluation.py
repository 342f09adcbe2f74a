"""The examples of docs/evaluation.md and of the pages of metrics run as they stand, and print what the page says."""

import pytest

from tests.documentation_pages import DOCS, run_page


def test_examples_run_and_print_what_the_page_says(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run_page("evaluation.md", capsys)
    assert (tmp_path / "predicted.prep.vcc").is_file()


@pytest.mark.parametrize("page", sorted(path.name for path in (DOCS / "metrics").glob("*.md")))
def test_examples_of_metrics_print_what_the_page_says(page, capsys):
    assert run_page(f"metrics/{page}", capsys)
