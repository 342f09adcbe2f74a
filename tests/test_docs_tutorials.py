"""The tutorials run from top to bottom, and print what they show."""

import pytest
import torch
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_MAPPING

from tests.documentation_pages import DOCS, run_page, same

PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.glob("tutorials/*.md"))


@pytest.mark.parametrize("page", PAGES)
def test_a_tutorial_runs_and_prints_what_it_shows(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    # What a tutorial registers with the Auto classes belongs to it alone.
    for mapping in (CONFIG_MAPPING, MODEL_MAPPING):
        monkeypatch.setattr(mapping, "_extra_content", dict(mapping._extra_content))
    with torch.random.fork_rng():
        run_page(page, capsys, tolerance=0.1)


def test_what_counts_as_the_same_output():
    assert same("a 1.00\nb\nc\n", "a 1.02\n...\nc\n", 0.1)
    assert not same("a 1.50\nc\n", "a 1.02\nc\n", 0.1)
    assert not same("a 1.00\nd\n", "a 1.00\nc\n", 0.1)
    assert not same("a 1.00\n", "a 1.01\n")
