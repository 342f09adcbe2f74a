"""The examples of docs/evaluation.md run as they stand, and print what the page says."""

from tests.documentation_pages import run_page


def test_examples_run_and_print_what_the_page_says(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run_page("evaluation.md", capsys)
    assert (tmp_path / "predicted.prep.vcc").is_file()
