import gzip

import pytest

from state_hf.tokenization.gene_aliases import (
    AliasTable,
    GeneAlias,
    is_ensembl_id,
    read_gene_aliases,
    without_version,
    write_gene_aliases,
)

HGNC = (
    "hgnc_id\tsymbol\tname\tstatus\talias_symbol\tprev_symbol\tensembl_gene_id\n"
    'HGNC:11998\tTP53\ttumor protein p53\tApproved\t"p53|LFS1"\t\tENSG00000141510\n'
    "HGNC:29289\tRELCH\tRAB11 binding\tApproved\t\tKIAA1468\t\n"
    "HGNC:1\tGONE\tgone\tEntry Withdrawn\tGHOST\t\t\n"
)
GTF = (
    "##description: evidence-based annotation\n"
    'chr1\tHAVANA\tgene\t1\t9\t.\t+\t.\tgene_id "ENSG00000141510.17"; gene_type "protein_coding"; gene_name "TP53";\n'
    'chr1\tHAVANA\ttranscript\t1\t9\t.\t+\t.\tgene_id "ENSG00000141510.17"; gene_name "TP53";\n'
    'chrY\tHAVANA\tgene\t1\t9\t.\t+\t.\tgene_id "ENSG00000182378.15_PAR_Y"; gene_name "PLCXD1";\n'
    'chr1\tensembl\tgene\t1\t9\t.\t+\t.\tgene_id "ENSG00000000001"; gene_version "3";\n'
)


@pytest.mark.parametrize(
    ("name", "stripped"),
    [
        ("ENSG00000141510.17", "ENSG00000141510"),
        ("ENSMUSG00000059552.14", "ENSMUSG00000059552"),
        ("ENSG00000182378.15_PAR_Y", "ENSG00000182378"),
        (" TP53 ", "TP53"),
        ("AL627309.1", "AL627309.1"),
        ("RP11-34P13.7", "RP11-34P13.7"),
    ],
)
def test_only_ensembl_ids_lose_their_version(name, stripped):
    assert without_version(name) == stripped
    assert is_ensembl_id(name) == stripped.startswith("ENS")


@pytest.mark.parametrize("compressed", [False, True])
def test_hgnc(tmp_path, compressed):
    path = tmp_path / "hgnc_complete_set.txt"
    path.write_bytes(gzip.compress(HGNC.encode()) if compressed else HGNC.encode())
    assert read_gene_aliases(path) == [
        GeneAlias("ENSG00000141510", "TP53", "ensembl_id"),
        GeneAlias("KIAA1468", "RELCH", "previous"),
        GeneAlias("LFS1", "TP53", "alias"),
        GeneAlias("p53", "TP53", "alias"),
    ]


def test_gtf(tmp_path):
    path = tmp_path / "annotation.gtf"
    path.write_text(GTF)
    assert read_gene_aliases(path) == [
        GeneAlias("ENSG00000141510", "TP53", "ensembl_id"),
        GeneAlias("ENSG00000182378", "PLCXD1", "ensembl_id"),
    ]


def test_plain_tables(tmp_path):
    path = tmp_path / "table.tsv"
    path.write_text("ensembl_id\tsymbol\nENSG00000141510.2\tTP53\nENSG00000000001\t\nLYZ\tLYZ\n")
    assert read_gene_aliases(path) == [GeneAlias("ENSG00000141510", "TP53", "ensembl_id")]
    path.write_text("mouse\thuman\tscore\nTrp53\tTP53\t1\n")
    with pytest.raises(ValueError, match=r"gene symbols is not clear \(there are mouse, human, score\); name it"):
        read_gene_aliases(path)
    with pytest.raises(ValueError, match=r"aliases is not clear.* name it \(alias_column="):
        read_gene_aliases(path, symbol_column="human")
    with pytest.raises(ValueError, match="there is no column 'rat'"):
        read_gene_aliases(path, symbol_column="human", alias_column="rat")
    expected = [GeneAlias("Trp53", "TP53", "alias")]
    assert read_gene_aliases(path, symbol_column="human", alias_column="mouse") == expected


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "file"
    path.write_text("just text\n")
    with pytest.raises(ValueError, match="neither a GTF nor a tab-separated table"):
        read_gene_aliases(path)
    path.write_text("alias\tsymbol\n")
    with pytest.raises(ValueError, match="holds no other name"):
        read_gene_aliases(path)


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "gene_aliases.tsv"
    write_gene_aliases([GeneAlias("P53", "TP53", "alias")], path)
    assert path.read_text() == "alias\tsymbol\tkind\nP53\tTP53\talias\n"
    assert [entry.name for entry in tmp_path.iterdir()] == ["gene_aliases.tsv"]
    assert AliasTable.from_file(path).known_as("P53", {"TP53": 0}) == ["TP53"]


def test_a_broken_alias_table_is_named():
    with pytest.raises(ValueError, match=r"m/gene_aliases\.tsv: the first line has to name the columns"):
        AliasTable("a\tb\n", name="m/gene_aliases.tsv").known_as("P53", {})
    with pytest.raises(ValueError, match="line 3: 1 fields, but the header has 2"):
        AliasTable("alias\tsymbol\nP53\tTP53\nP53\n").known_as("P53", {})
