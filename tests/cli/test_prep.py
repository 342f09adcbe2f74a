import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from state_hf.cli import main


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Two counts of three genes, and the gene list, in the working folder."""
    monkeypatch.chdir(tmp_path)
    obs = pd.DataFrame({"perturbation": ["non-targeting", "A"]}, index=["c0", "c1"])
    AnnData(np.array([[1, 0, 3], [2, 2, 0]], np.float32), obs=obs, var=pd.DataFrame(index=list("ABC"))).write_h5ad(
        "p.h5ad"
    )
    (tmp_path / "genes.csv").write_text("C\nA\nB\n")
    return tmp_path


def test_writes_the_submission_of_2025(files, capsys):
    assert main(["prep", "p.h5ad", "--genes", "genes.csv"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [
        "2 cells x 3 genes, 2 labels",
        "genes are brought into the order of the list",
        "counts are normalised to the median of 4 a cell, then log1p",
    ]
    assert lines[3].startswith("about ")
    assert lines[-1].startswith("Wrote p.prep.vcc (")
    assert (files / "p.prep.vcc").is_file()


def test_checks_the_submission_of_2026(files, capsys):
    (files / "genes.csv").write_text("A\nB\nC\n")
    assert main(["prep", "p.h5ad", "--genes", "genes.csv", "--rules", "2026"]) == 0
    out, err = capsys.readouterr()
    assert out == "p.h5ad keeps the rules of 2026: 2 cells x 3 genes, raw counts, at most 4 a cell\n"
    assert "lists 3 genes, the challenge has 18,533" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.h5ad", "--genes", "genes.csv"], "state-hf prep: there is no file missing.h5ad"),
        (["p.h5ad", "--genes", "missing.csv"], "missing.csv"),
        (["genes.csv", "--genes", "genes.csv"], "genes.csv is a table of text"),
        (["p.h5ad", "--genes", "genes.csv", "--perturbation-key", "x"], "no obs column 'x' (columns: 'perturbation')"),
        (["p.h5ad", "--genes", "genes.csv", "--control", "NT"], "no cell has the control label 'NT'"),
        (["p.h5ad", "--genes", "genes.csv", "--output", "x.vcc"], "named *.prep.vcc, not 'x.vcc'"),
        (["p.h5ad", "--genes", "genes.csv", "--rules", "2026"], "another order"),
        (
            ["p.h5ad", "--genes", "genes.csv", "--rules", "2026", "--output", "x.prep.vcc"],
            "--output belongs to the rules of",
        ),
    ],
)
def test_errors_are_one_clear_sentence(files, capsys, arguments, message):
    before = sorted(files.iterdir())
    assert main(["prep", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert sorted(files.iterdir()) == before
