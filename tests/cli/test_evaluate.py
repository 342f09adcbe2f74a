import json
import logging

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from state_hf.cli import main

GENES = [f"G{i}" for i in range(30)]
PERTURBATIONS = ["G0", "G1", "G2", "G3"]


def screen(seed, mean=20.0):
    """Counts of four knock-downs, each of which also triples five genes."""
    generator = np.random.default_rng(seed)
    labels = np.repeat(["non-targeting", *PERTURBATIONS], 24)
    means = np.full((len(labels), len(GENES)), mean)
    for number, label in enumerate(PERTURBATIONS):
        means[labels == label, number] /= 10
        means[labels == label, 5 + 5 * number : 10 + 5 * number] *= 3
    obs = pd.DataFrame(
        {"perturbation": labels, "line": np.tile(["K562", "T98G"], len(labels) // 2)},
        index=[f"c{i}" for i in range(len(labels))],
    )
    return AnnData(generator.poisson(means).astype(np.float32), obs=obs, var=pd.DataFrame(index=GENES))


@pytest.fixture(scope="module")
def screens(tmp_path_factory):
    folder = tmp_path_factory.mktemp("screens")
    screen(1).write_h5ad(folder / "predicted.h5ad")
    screen(2).write_h5ad(folder / "measured.h5ad")
    return folder


@pytest.fixture
def files(screens, tmp_path, monkeypatch):
    """The two files' names are valid in the working folder, which is otherwise empty."""
    monkeypatch.chdir(tmp_path)
    for path in screens.iterdir():
        (tmp_path / path.name).symlink_to(path)
    return tmp_path


def test_prints_the_table_and_writes_what_was_asked_for(files, capsys):
    options = ["--baseline", "mean", "--output", "scores", "--report", "report.html", "--cache-dir", "cache"]
    assert main(["evaluate", "predicted.h5ad", "measured.h5ad", *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("profile vcc2025 (digest ")
    assert lines[2].split() == ["prediction", "baseline", "score"]
    table = {line.split()[0]: line.split()[1:] for line in lines[3:7]}
    assert list(table) == ["mae", "pds", "des", "overall"]
    assert table["pds"][0] == "1"
    assert float(table["overall"][-1]) > 0.5
    assert lines[-1] == "4 perturbations scored, 10 files in scores, report report.html"
    assert list((files / "cache").iterdir())
    assert (files / "report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    saved = json.loads((files / "scores" / "evaluation.json").read_text())
    assert saved["values"]["pds"] == 1
    assert len(pd.read_parquet(files / "scores" / "de_reference.parquet")) == len(PERTURBATIONS) * len(GENES)
    assert list(pd.read_csv(files / "scores" / "per_perturbation.csv")["perturbation"]) == PERTURBATIONS


def test_an_audit_is_printed_and_written(files, capsys):
    options = ["--baseline", "mean", "--audit", "--output", "scores", "--report", "report.html"]
    assert main(["evaluate", "predicted.h5ad", "measured.h5ad", *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    start = lines.index("audit") + 2
    assert lines[start].split() == ["prediction", "control_copy", "inflated_variance", "depth_shifted"]
    table = {line.split()[0]: list(map(float, line.split()[1:])) for line in lines[start + 1 : start + 5]}
    assert list(table) == ["mae", "pds", "des", "overall_score"]
    assert table["des"] == [0.957, 0.0, 0.906, 0.957]
    # The profile normalises counts to the median of the screen, which is the deeper cells'.
    assert table["mae"] == [0.0495, 0.3, 0.0545, 0.396]
    assert lines[start + 6] == (
        "another depth (expression x 1.5) makes worse, by more than the prediction differs from a copy of the control: "
        "mae 0.0495 -> 0.396 (control copy 0.3)"
    )
    saved = pd.read_csv(files / "scores" / "audit.csv", index_col="metric")
    assert list(saved.columns) == ["prediction", "control_copy", "inflated_variance", "depth_shifted",
                                   "inflated_variance_moves_more", "depth_shifted_moves_more"]  # fmt: skip
    assert saved["depth_shifted_moves_more"].to_dict() == {"mae": True, "pds": False, "des": False,
                                                           "overall_score": False}  # fmt: skip


def test_contexts_are_listed(files, capsys):
    assert main(["evaluate", "predicted.h5ad", "measured.h5ad", "--cell-type-key", "line", "--report", "r.html"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "prediction in each context" in lines
    assert ["K562", "T98G"] in [line.split() for line in lines]
    assert "K562: all plots" in (files / "r.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.h5ad", "measured.h5ad"], "there is no file missing.h5ad"),
        (["predicted.h5ad", "missing.h5ad"], "there is no file missing.h5ad"),
        (["predicted.h5ad", "measured.h5ad", "--profile", "vcc2027"], "there is no evaluation profile 'vcc2027'"),
        (["predicted.h5ad", "measured.h5ad", "--baseline", "median"], "--baseline is mean, control or a file"),
        (
            ["predicted.h5ad", "measured.h5ad", "--report", "report.pdf"],
            "--report names an .html file, not 'report.pdf'",
        ),
        (["predicted.h5ad", "measured.h5ad", "--perturbation-key", "gene"], "the prediction has no obs column 'gene'"),
        (["predicted.h5ad", "measured.h5ad", "--control", "NT"], "the control 'NT' is no label of the reference"),
        (["predicted.h5ad", "measured.h5ad", "--cell-type-key", "cell"], "the reference has no obs column 'cell'"),
    ],
)
def test_errors_are_clear_and_leave_nothing(files, capsys, arguments, message):
    before = sorted(files.iterdir())
    assert main(["evaluate", *arguments]) == 2
    out, error = capsys.readouterr()
    assert not out
    assert error.startswith("state-hf evaluate: ")
    assert message in error
    assert sorted(files.iterdir()) == before


def test_files_that_are_no_h5ad(files, capsys):
    (files / "text.h5ad").write_text("no cells")
    assert main(["evaluate", "text.h5ad", "measured.h5ad"]) == 2
    assert "text.h5ad is not an .h5ad file" in capsys.readouterr().err


def test_the_log_is_as_it_was_before(tmp_path):
    """A command inside another program leaves the library's levels and handlers alone."""
    names = ("state_hf", "state_hf.pipelines.evaluate")
    before = [(logging.getLogger(name).level, list(logging.getLogger(name).handlers)) for name in names]
    assert main(["evaluate", str(tmp_path / "a.h5ad"), str(tmp_path / "b.h5ad")]) == 2
    assert (
        main(["embed", str(tmp_path / "a.h5ad"), "--model", str(tmp_path), "--output", str(tmp_path / "c.h5ad")]) == 2
    )
    assert before == [(logging.getLogger(name).level, list(logging.getLogger(name).handlers)) for name in names]
