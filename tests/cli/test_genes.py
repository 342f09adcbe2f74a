import pytest

from state_hf.cli import main


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "table.tsv"
    path.write_text("ensembl_id\tsymbol\nENSG00000141510\tTP53\n")
    return str(path)


def test_import_writes_the_table_of_a_model_folder(table, tmp_path, capsys):
    (tmp_path / "genes.txt").write_text("TP53\nLYZ\n")
    output = tmp_path / "gene_aliases.tsv"
    assert main(["genes", "import", table, "--output", str(output)]) == 0
    assert output.read_text() == "alias\tsymbol\tkind\nENSG00000141510\tTP53\tensembl_id\n"
    said = capsys.readouterr().out
    assert "1 names (1 ensembl_id) of 1 genes" in said
    assert "1 of the 2 genes" in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--output", "no-such-folder/gene_aliases.tsv"], "There is no folder no-such-folder"),
        (["--symbol-column", "gene", "--output", "gene_aliases.tsv"], "there is no column 'gene'"),
    ],
)
def test_wrong_input_is_explained(table, options, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["genes", "import", table, *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "gene_aliases.tsv").exists()


def test_the_way_out_is_an_option_of_the_command(tmp_path, capsys):
    table = tmp_path / "orthologues.tsv"
    table.write_text("mouse\thuman\tscore\nTrp53\tTP53\t1\n")
    output = tmp_path / "gene_aliases.tsv"
    assert main(["genes", "import", str(table), "--symbol-column", "human", "--output", str(output)]) == 2
    said = capsys.readouterr().err
    assert (
        "which column holds the aliases is not clear (there are mouse, human, score); name it (--alias-column)" in said
    )
