"""The examples of docs/evaluation.md run as they stand, and print what the page says."""

import datasets

from tests.documentation_pages import run_page


def test_examples_run_and_print_what_the_page_says(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("evaluate.config.HF_METRICS_CACHE", str(tmp_path / "metrics"))
    monkeypatch.setattr("evaluate.config.HF_EVALUATE_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    run_page("evaluation.md", capsys)
    assert (tmp_path / "predicted.prep.vcc").is_file()
