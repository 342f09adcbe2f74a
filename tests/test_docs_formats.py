"""The table of docs/formats.md says what every command does with every kind of input; it is made here, and compared.

`STATE_HF_WRITE_DOCS=1 pytest tests/test_docs_formats.py` writes it again.
"""

import os
import re
from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pytest
import zarr

from state_hf import (
    PerturbationDataset,
    generate_screen,
    open_screens,
)
from state_hf.cli import main
from tests.data.cells.file_formats import LABELLED, REFUSED, UNLABELLED
from tests.documentation_pages import DOCS
from tests.screen_models import vocabulary_of_sets
from tests.tiny_models import save_state_embedding, state_transition_model

PAGE = DOCS / "formats.md"
WORKS, NO_LABELS, NO = "yes", "no labels", "no"
SMALL = "--hidden-size 8 --num-hidden-layers 1 --num-attention-heads 2 --intermediate-size 8 --set-size 4 --steps 1"

pytestmark = pytest.mark.filterwarnings("ignore")


class Workshop:
    """Tiny models, and cells as counts and as log1p values."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.counts = generate_screen(
            num_cell_types=2, num_perturbations=2, num_genes=12, cells_per_perturbation=8, controls=8, seed=3
        )
        self.counts.obs = self.counts.obs[["perturbation", "cell_type"]]
        self.counts.obs["total"] = np.asarray(self.counts.X.sum(axis=1)).ravel()
        del self.counts.uns["synthetic_screen"]
        self.logged = self.counts.copy()
        totals = np.repeat(self.logged.obs["total"].to_numpy(), np.diff(self.logged.X.indptr))
        self.logged.X.data = np.log1p(self.logged.X.data / totals * 1e4).astype(np.float32)
        genes = list(self.counts.var_names)
        save_state_embedding(folder / "se", genes)
        screens = open_screens(self.logged)
        state_transition_model(vocabulary_of_sets(PerturbationDataset(screens))).save_pretrained(folder / "st")
        self.counts.write_h5ad(folder / "counts.h5ad")

    def commands(self, counts: str | Path, logged: str | Path, out: Path) -> dict[str, list[str | Path]]:
        """The words of every command, for two files of the cells."""
        se, st, cpu = self.folder / "se", self.folder / "st", ["--device", "cpu"]
        (out / "corpus.csv").write_text(f"path\n{counts}\n")
        return {
            "embed": ["embed", counts, "--model", se, "--output", out / "embedded.npy", *cpu],
            "annotate": [
                *["annotate", self.folder / "counts.h5ad", "--model", se, "--reference", counts],
                *["--output", out / "labels.csv", *cpu],
            ],
            "finetune": [
                *["finetune", counts, "--model", se, "--output", out / "tuned", "--epochs", "1"],
                *["--trained", "head", "--val-share", "0.3", "--test-share", "0.3", *cpu],
            ],
            "preprocess": ["preprocess", counts, "--output", out / "prepared.h5ad", "--num-variable-genes", "5"],
            "train": ["train", logged, "--output", out / "trained", "--test-share", "0.5", *SMALL.split(), *cpu],
            "predict": ["predict", logged, "--model", st, "--output", out / "predicted.h5ad", "--cells", "2", *cpu],
            "evaluate": ["evaluate", logged, logged],
            "corpus": ["corpus", out / "corpus.csv", "--model", se],
            "tokenize": ["tokenize", out / "corpus.csv", "--model", se, "--output", out / "tokens"],
        }


COMMANDS = ("embed", "annotate", "finetune", "preprocess", "train", "predict", "evaluate", "corpus", "tokenize")


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    return Workshop(tmp_path_factory.mktemp("workshop"))


def built(build: Callable, adata: anndata.AnnData, folder: Path) -> str | Path:
    folder.mkdir()
    return build(adata, folder)


def outcome(words: list[str | Path], capsys) -> tuple[int, str]:
    """Exit status, and the last line that was said."""
    capsys.readouterr()
    status = main([str(word) for word in words])
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    # A corpus has a report, which names the files that cannot be used.
    lines = (captured.out if words[0] == "corpus" else captured.err).strip().splitlines() or [""]
    return status, lines[-1]


def row_of(kind: str) -> list[str]:
    """What the page says of a kind of input, command by command."""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0] == kind:
            return cells[1:]
    return []


def as_row(kind: str, said: list[str]) -> str:
    return f"| {kind} | {' | '.join(said)} |"


def expect(kind: str, said: list[str]) -> None:
    """Compare a row of the page with what happened, or write it."""
    if not os.environ.get("STATE_HF_WRITE_DOCS"):
        assert row_of(kind) == said
        return
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if not line.startswith(f"| {kind} |")]
    table = "refused" if len(said) == 1 else "read"
    lines.insert(lines.index(f"<!-- end of what is {table} -->") - 1, as_row(kind, said))
    PAGE.write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.mark.parametrize("kind", [*LABELLED, *UNLABELLED])
def test_what_is_read(kind, workshop, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "1")
    build = {**LABELLED, **UNLABELLED}[kind]
    counts, logged = built(build, workshop.counts, tmp_path / "c"), built(build, workshop.logged, tmp_path / "l")
    said = []
    for command, words in workshop.commands(counts, logged, tmp_path).items():
        status, message = outcome(words, capsys)
        if status and kind in UNLABELLED:
            assert re.search(r"no (obs )?column '(perturbation|cell_type)'", message), (command, message)
            said.append(NO_LABELS)
        else:
            assert not status, (command, message)
            said.append(WORKS)
    expect(kind, said)


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_refused(kind, workshop, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    path = REFUSED[kind](tmp_path / "in")
    messages = set()
    for command, words in workshop.commands(path, path, tmp_path).items():
        if command == "embed" and path.is_dir() and not any(path.iterdir()):
            continue  # a folder of files, of which there are none
        status, message = outcome(words, capsys)
        assert status == 2
        for prefix in (f"state-hf {command}: ", f"{path} cannot be trained on: "):
            message = message.removeprefix(prefix)
        message = message.replace(str(path), path.name).replace(zarr.__version__, "3")
        # Every release of zarr says it in other words.
        message = re.sub(r"(zarr 3 does not know) \(.*?\):", r"\1 (...):", message)
        messages.add(message.partition(": Unable to")[0])  # what HDF5 itself says
    assert len(messages) == 1, messages
    (message,) = messages
    expect(kind, [message.replace("|", "\\|")])


def test_the_table_has_every_kind_and_no_other():
    rows = re.findall(r"^\| (.+?) \|.*\|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    known = {*LABELLED, *UNLABELLED, *REFUSED}
    assert set(rows) - {"Input", "---"} == known
