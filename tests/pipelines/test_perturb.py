"""`state-hf perturb` on files: which cells and genes, what the tables say, and runs that are shared or killed."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from scipy import sparse

from state_hf import convert, perturb
from state_hf.cli import main
from tests.geneformer_models import FOLDER, dictionaries
from tests.pipelines.conftest import make_cells
from tests.tiny_models import GENES

SOURCE = Path(__file__).parents[2] / "src"
EFFECTS = ["gene_cosine", "cell_cosine", "cell_distance"]


@pytest.fixture(scope="module")
def geneformer(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("perturbed") / "v1"
    convert(FOLDER / "v1" / "model", folder)
    return folder


@pytest.fixture(scope="module")
def cells(tmp_path_factory) -> Path:
    """30 cells of two types and three states, of 45 genes: one is never expressed, one in half of the cells."""
    rng = np.random.default_rng(0)
    names = [gene for gene in dictionaries()[0] if not gene.startswith("<")][:45]
    counts = rng.poisson(1.5, (30, 45)).astype(np.float32)
    counts[:, 7] = 0
    counts[::2, 9], counts[1::2, 9] = 0, 3
    obs = pd.DataFrame(
        {"type": np.where(np.arange(30) % 3 == 0, "B", "T"), "state": np.repeat(["start", "goal", "alt"], 10)},
        index=[f"c{number}" for number in range(30)],
    )
    path = tmp_path_factory.mktemp("cells") / "cells.h5ad"
    anndata.AnnData(sparse.csr_matrix(counts), obs=obs, var=pd.DataFrame(index=names)).write_h5ad(path)
    return path


def genes_of(path: Path) -> list[str]:
    return list(anndata.read_h5ad(path, backed="r").var_names)


def same_tables(one: pd.DataFrame, other: pd.DataFrame, atol: float = 2e-6) -> None:
    assert list(one.columns) == list(other.columns)
    for column in one:
        # Wilcoxon's p-values are of ranks: rounding that swaps two of them moves p by more.
        is_p = column.endswith(("_p", "_q", "_p_all", "_q_all", "_beyond_random", "impact_probability"))
        if one[column].dtype.kind == "f":
            np.testing.assert_allclose(one[column], other[column], rtol=0, atol=0.1 if is_p else atol, err_msg=column)
        else:
            assert one[column].tolist() == other[column].tolist(), column


def test_every_gene_is_deleted_where_it_is_expressed(geneformer, cells, tmp_path):
    result = perturb(cells, geneformer, tmp_path / "out.parquet", random_genes=5)
    names, table = genes_of(cells), result.table.set_index("perturbation")
    assert table.index.tolist() == names
    counts = anndata.read_h5ad(cells).X.toarray()
    expressing = (counts > 0).sum(axis=0)
    assert table["cells"].tolist() == expressing.tolist()
    assert (table["cells"] + table["cells_without"] == 30).all()
    # No number, but a count.
    assert table.loc[names[7], EFFECTS].isna().all()
    assert table.loc[names[7], "cells_without"] == 30
    assert table["gene_cosine"].drop(names[7]).between(-1, 1).all()
    assert (table["gene_cosine_low"].dropna() <= table["gene_cosine_high"].dropna()).all()
    assert (table["random_genes"].drop(names[7]) == 5).all()
    # All random genes are among those that are asked for.
    assert result.checks["random_perturbations"] == 0
    assert result.checks["without_number"] == 1
    stored = json.loads(pq.read_schema(tmp_path / "out.parquet").metadata[b"state_hf"])
    assert stored["record"]["change"] == "delete"
    assert stored["record"]["source"] == "cells.h5ad"
    assert not (tmp_path / "out.parquet.partial").exists()


def test_lists_groups_and_an_anchor(geneformer, cells, tmp_path):
    names = genes_of(cells)
    pair = f"{names[1]}+{names[2]}"
    (tmp_path / "sets.gmt").write_text(f"pathway\tabout it\t{names[3]}\t{names[4]}\t{names[5]}\n")
    result = perturb(
        cells,
        geneformer,
        tmp_path / "out.parquet",
        genes=[names[1], names[2], pair],
        gene_file=tmp_path / "sets.gmt",
        anchor=names[0],
        random_genes=3,
        gene_output=tmp_path / "genes.parquet",
    )
    table = result.table.set_index("perturbation")
    single = [names[0], names[1], names[2], pair, "pathway"]
    assert table.index.tolist() == [*single, *(f"{names[0]}+{name}" for name in single[1:])]
    assert table.loc["pathway", "genes"] == "+".join(names[3:6])
    beyond = table["gene_cosine_beyond_sum"]
    assert beyond[single].isna().all()
    assert beyond.drop(single).notna().all()
    # Where all cells have all three numbers, it is the published statistic of the means.
    one = perturb(
        cells,
        geneformer,
        tmp_path / "one.parquet",
        genes=[names[9]],
        anchor=names[0],
        random_genes=0,
        max_cells=4,
        seed=2,
    ).table.set_index("perturbation")
    if (one["cells"] == 4).all():
        sum_ = 1 - ((1 - one["gene_cosine"][names[0]]) + (1 - one["gene_cosine"][names[9]]))
        together = f"{names[0]}+{names[9]}"
        assert one["gene_cosine_beyond_sum"][together] == pytest.approx(one["gene_cosine"][together] - sum_, abs=1e-6)
    affected = result.gene_table
    assert set(affected["perturbation"]) == set(table.index)
    assert not (affected["perturbation"] == affected["affected_gene"]).any()
    of_first = affected[affected["perturbation"] == names[1]]
    weights = of_first["cells"] / of_first["cells"].sum()
    assert (of_first["cosine"] * weights).sum() == pytest.approx(table.loc[names[1], "gene_cosine"], abs=0.02)
    assert of_first["cosine"].is_monotonic_increasing


def test_cells_are_chosen_grouped_and_led_to_a_goal(geneformer, cells, tmp_path):
    names = genes_of(cells)
    result = perturb(
        cells,
        geneformer,
        tmp_path / "out.parquet",
        genes=names[:3],
        change="overexpress",
        where={"type": ["T", "B"]},
        group_key="type",
        state_key="state",
        start="start",
        goal="goal",
        alternatives=["alt"],
        random_genes=4,
    )
    table = result.table
    assert result.checks["cells"] == 10
    assert table["group"].tolist() == ["B"] * 3 + ["T"] * 3
    # A listed gene is added to the cells that lack it.
    assert table["cells"].tolist() == [4] * 3 + [6] * 3
    for state in ("start", "goal", "alt"):
        assert table[[f"shift_to_{state}", f"cell_shift_to_{state}"]].abs().to_numpy().max() > 0
    only = perturb(
        cells, geneformer, tmp_path / "t.parquet", genes=names[:3], change="overexpress", random_genes=4,
        where={"type": "T", "state": "start"},
    )  # fmt: skip
    np.testing.assert_allclose(only.table[EFFECTS], table.loc[table["group"] == "T", EFFECTS], rtol=0, atol=2e-6)


@pytest.mark.parametrize("change", ["delete", "activate"])
def test_another_family_by_the_same_words(tiny_model, tmp_path, change):
    make_cells(20).write_h5ad(tmp_path / "cells.h5ad")
    result = perturb(
        tmp_path / "cells.h5ad", tiny_model, tmp_path / "out.parquet", genes=GENES[:4], change=change, random_genes=3
    )
    assert result.table["perturbation"].tolist() == GENES[:4]
    assert (result.table["cell_distance"] > 0).all()


def test_the_model_in_memory_and_batches_change_nothing(geneformer, cells, tmp_path):
    from transformers import AutoModel

    one = perturb(cells, geneformer, tmp_path / "one.parquet", batch_size=1, random_genes=2)
    model = AutoModel.from_pretrained(geneformer)
    two = perturb(cells, model, tmp_path / "two.parquet", tokenizer=geneformer, batch_size=50, random_genes=2)
    same_tables(one.table, two.table)


def test_what_it_would_take_is_measured_first(geneformer, cells, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("state_hf.analysis.perturbation_blocks._MEASURED_SECONDS", 0.05)
    plan = perturb(cells, geneformer, tmp_path / "out.parquet", plan=True)
    expressed = (anndata.read_h5ad(cells).X.toarray() > 0).sum()
    assert (plan.cells, plan.perturbations, plan.random_perturbations, plan.copies) == (30, 45, 0, expressed)
    assert plan.seconds == pytest.approx(plan.copies / plan.copies_per_second)
    command = ["perturb", str(cells), "--model", str(geneformer), "--output", str(tmp_path / "out.parquet")]
    assert main([*command, "--plan", "--device", "cpu"]) == 0
    assert f"{expressed:,} perturbed cells to compute" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def start(*arguments: object) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "PATH": str(Path(sys.executable).parent)}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


STATES = {"state_key": "state", "start": "start", "goal": "goal"}


def test_a_killed_run_goes_on_to_the_same_result(geneformer, cells, tmp_path):
    output = tmp_path / "out.parquet"
    # The process stops in the middle of the cells of its fourth block, whose sums are already there.
    script = textwrap.dedent(f"""
        import time
        import numpy
        from state_hf import perturb

        save, saved = numpy.save, []
        def save_and_stop(file, rows):
            if "cells" in file.name:
                saved.append(rows)
            if len(saved) == 4:
                file.write(b"half")
                file.flush()
                time.sleep(600)
            save(file, rows)
        numpy.save = save_and_stop
        perturb({str(cells)!r}, {str(geneformer)!r}, {str(output)!r}, device="cpu", random_genes=4, **{STATES!r},
                gene_output={str(tmp_path / "genes.parquet")!r})
    """)
    process = start("-c", script)
    folder = tmp_path / "out.parquet.partial" / "cells"
    deadline = time.monotonic() + 120
    while not list(folder.glob(".block_00000003*")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    messages = process.communicate()[0]
    assert process.returncode == -signal.SIGKILL, messages
    assert len(list(folder.glob("block_*.npy"))) == 3
    assert not output.exists()

    options = {"random_genes": 4, "device": "cpu", **STATES}
    genes = {"gene_output": tmp_path / "genes.parquet"}
    with pytest.raises(FileExistsError, match="an unfinished run lies in"):
        perturb(cells, geneformer, output, **options, **genes)
    with pytest.raises(ValueError, match=r"change was 'delete' and is 'overexpress'"):
        perturb(cells, geneformer, output, resume=True, change="overexpress", **options, **genes)
    resumed = perturb(cells, geneformer, output, resume=True, **options, **genes)
    whole = perturb(cells, geneformer, tmp_path / "whole.parquet", **options, gene_output=tmp_path / "g.parquet")
    same_tables(resumed.table, whole.table)
    same_tables(resumed.gene_table, whole.gene_table)
    assert not folder.parent.exists()
    # Complete, it is read back.
    again = perturb(cells, geneformer, output, resume=True, **options, **genes)
    same_tables(again.table, resumed.table, atol=0)
    assert again.checks == resumed.checks
    with pytest.raises(ValueError, match=r"made with other settings: random_genes was 4 and is 3"):
        perturb(cells, geneformer, output, resume=True, **{**options, "random_genes": 3}, **genes)


def test_two_processes_give_what_one_gives(geneformer, cells, tmp_path):
    two = tmp_path / "two.parquet"
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", 2, "--main_process_port", 0]
    words = [word for name, value in STATES.items() for word in (f"--{name.replace('_', '-')}", value)]
    command = ["-m", "state_hf", "perturb", cells, "--model", geneformer, "--output", two, "--device", "cpu"]
    process = start(*launch, *command, *words, "--random-genes", 4, "--gene-output", tmp_path / "two_genes.parquet")
    messages = process.communicate(timeout=300)[0]
    assert process.returncode == 0, messages
    one = perturb(cells, geneformer, tmp_path / "one.parquet", device="cpu", random_genes=4, **STATES,
                  gene_output=tmp_path / "one_genes.parquet")  # fmt: skip
    same_tables(pd.read_parquet(two), one.table)
    same_tables(pd.read_parquet(tmp_path / "two_genes.parquet"), one.gene_table)
    # The summary is printed once.
    assert messages.count("Distinct?") == 1


def test_the_command_prints_what_it_found_and_writes_a_page(geneformer, cells, tmp_path, capsys):
    output, report = tmp_path / "out.parquet", tmp_path / "page.html"
    names = genes_of(cells)
    command = ["perturb", str(cells), "--model", str(geneformer), "--output", str(output), "--report", str(report)]
    command += ["--where", "type=T", "--genes", *names[:4], "--device", "cpu", "--random-genes", "3"]
    assert main([*command, "--gene-output", str(tmp_path / "genes.parquet")]) == 0
    said = capsys.readouterr()
    assert names[1] in said.out
    assert "Distinct? Of 4 perturbations" in said.out
    assert "Beyond random genes of like expression?" in said.out
    assert f"Wrote {output}: 4 rows" in said.err
    page = report.read_text(encoding="utf-8")
    assert "Volcano" in page
    assert "What perturbations (rows) do to other genes" in page


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--genes", "nothing"], "'nothing' is no gene of the data or the vocabulary"),
        (["--genes", "ENSG00001000001", "ENSG00001000001"], "asked for twice"),
        (["--change", "level"], "level is None for the change 'level'"),
        (["--level", "0.5"], "level is 0.5 for the change 'delete'"),
        (["--where", "type"], "--where 'type' is not KEY=VALUE"),
        (["--where", "type=X"], "No cell of {cells} has obs['type'] 'X': there are 'B', 'T'"),
        (["--goal", "goal"], "goal and alternatives are states of state_key"),
        (["--state-key", "state", "--start", "start", "--goal", "start"], "name a state twice"),
        (["--state-key", "state", "--start", "none"], "there are 'alt', 'goal', 'start'"),
        (["--state-key", "state", "--start", "a", "--goal", "a_low"], "'shift_to_a_low': give the states other names"),
        (["--max-cells", "0"], "max_cells must be a whole number from 1 on"),
        (["--output", "out.csv"], "out.csv has to end in .parquet"),
    ],
)
def test_wrong_input_is_one_sentence_and_status_2(geneformer, cells, tmp_path, capfd, words, message):
    command = ["perturb", str(cells), "--model", str(geneformer), "--device", "cpu"]
    command += ["--output", str(tmp_path / "out.parquet")] if "--output" not in words else []
    assert main([*command, *words]) == 2
    error = capfd.readouterr().err.splitlines()[-1]
    assert error.startswith("state-hf perturb: ")
    assert message.format(cells=cells) in error.replace("--goal and --alternatives", "goal and alternatives")
    assert not list(tmp_path.iterdir())
