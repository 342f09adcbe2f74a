import hashlib

import pytest
import torch

from state_hf import GeneTable, StateEmbeddingTokenizer, load_gene_table


@pytest.fixture
def table():
    return GeneTable(["B", "A", "C"], torch.arange(6.0).view(3, 2), {"model": "tiny"})


def test_saving_and_loading(table, tmp_path):
    table.save_pretrained(tmp_path / "genes")
    loaded = load_gene_table(tmp_path / "genes")
    assert loaded.genes == ("B", "A", "C")
    assert torch.equal(loaded.embeddings, table.embeddings)
    assert loaded.record["model"] == "tiny"
    assert hashlib.sha256((tmp_path / "genes" / "genes.txt").read_bytes()).hexdigest() == loaded.digest
    assert StateEmbeddingTokenizer.from_pretrained(tmp_path / "genes").genes == ["B", "A", "C"]


def test_selected_rows_keep_the_order_asked_for(table):
    chosen = table.select(["C", "B"])
    assert chosen.genes == ("C", "B")
    assert chosen.embeddings.tolist() == [[4.0, 5.0], [0.0, 1.0]]
    with pytest.raises(ValueError, match=r"of 3 genes lacks 1 of 2: 'X'"):
        table.select(["A", "X"])


@pytest.mark.parametrize(
    ("genes", "rows", "message"),
    [
        (["A"], torch.zeros(2, 3), "1 genes cannot have rows of shape"),
        ([], torch.zeros(0, 3), "0 genes"),
        (["A", "A"], torch.zeros(2, 3), "'A' has two rows"),
        (["A", "B"], torch.tensor([[0.0], [float("nan")]]), "row of 'B' is not finite"),
    ],
)
def test_broken_tables_are_refused(genes, rows, message):
    with pytest.raises(ValueError, match=message):
        GeneTable(genes, rows)


def test_the_original_dictionary(tmp_path):
    path = tmp_path / "protein_embeddings.pt"
    torch.save({"TP53": torch.ones(4), "ALK": torch.zeros(4, dtype=torch.float16)}, path)
    table = load_gene_table(path)
    assert table.genes == ("TP53", "ALK")
    assert table.embeddings.dtype == torch.float32
    assert table.width == 4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds a list"),
        ({}, "not a dictionary of genes"),
        ({"A": torch.zeros(2), "B": torch.zeros(3)}, "different widths: 2, 3"),
        ({"A": torch.zeros(2, 2)}, "'A' is not a gene with one row"),
    ],
)
def test_what_is_no_dictionary_of_genes_is_refused(content, message, tmp_path):
    torch.save(content, tmp_path / "table.pt")
    with pytest.raises(ValueError, match=message):
        load_gene_table(tmp_path / "table.pt")


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_code_in_a_dictionary_does_not_run(tmp_path):
    torch.save({"A": Malicious(str(tmp_path / "was-here"))}, tmp_path / "table.pt")
    with pytest.raises(ValueError, match=r"it names _?io\.open, which is code"):
        load_gene_table(tmp_path / "table.pt")
    assert not (tmp_path / "was-here").exists()


@pytest.mark.parametrize("legacy", [False, True])
def test_a_damaged_dictionary_is_refused(legacy, tmp_path):
    path = tmp_path / "table.pt"
    torch.save({"A": torch.ones(4)}, path, _use_new_zipfile_serialization=not legacy)
    whole = path.read_bytes()
    for content in (b"", b"hello there", *(whole[:end] for end in range(0, len(whole) - 1, 29))):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"table\.pt is (empty|broken|cut off|neither a file of torch)"):
            load_gene_table(path)


def test_a_changed_gene_list_is_refused(table, tmp_path):
    table.save_pretrained(tmp_path)
    (tmp_path / "genes.txt").write_text("A\nB\nC\n")
    with pytest.raises(ValueError, match="not the gene list that the table was saved with"):
        load_gene_table(tmp_path)


def test_what_is_no_table_is_explained(tmp_path):
    with pytest.raises(OSError, match=r"gene_table.safetensors"):
        load_gene_table(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        load_gene_table(tmp_path / "nothing.pt")
