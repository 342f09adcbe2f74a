import gzip

import pytest

from state_hf.gene_embeddings.protein_fasta import gene_of_header, read_proteins


@pytest.mark.parametrize(
    ("header", "symbol", "identifier"),
    [
        (
            "ENSP00000269305.4 pep chromosome:GRCh38:17:7661779:7687538:-1 gene:ENSG00000141510.19 "
            "transcript:ENST00000269305.9 gene_biotype:protein_coding gene_symbol:TP53 description:tumor protein p53",
            "TP53",
            "ENSG00000141510",
        ),
        ("ENSP1 pep chromosome:GRCh38:7:1:2:1 gene:ENSG00000282543.1 description:none", None, "ENSG00000282543"),
        ("sp|P04637|P53_HUMAN Cellular tumor antigen p53 OS=Homo sapiens OX=9606 GN=TP53 PE=1 SV=4", "TP53", "P04637"),
        ("sp|P04637-2|P53_HUMAN Isoform 2 of p53 OS=Homo sapiens OX=9606 GN=TP53", "TP53", "P04637"),
        ("tr|A0A024|A0A024_HUMAN A protein OS=Homo sapiens OX=9606 PE=4 SV=1", None, "A0A024"),
        ("sp|Q1|X_HUMAN Odd OS=Homo sapiens GN=ORF 1 PE=1", "ORF_1", "Q1"),
        (
            "ENSP00000493376.2|ENST00000641515.2|ENSG00000186092.7|OTTHUMG00000001094.4|-|OR4F5-201|OR4F5|326",
            "OR4F5",
            "ENSG00000186092",
        ),
        ("ALX1 gene_symbol:ALX1 source:RefSeq_mRNA_longest_ATG_ORF", "ALX1", None),
        ("TP53 any words", "TP53", None),
    ],
)
def test_genes_of_headers(header, symbol, identifier):
    assert gene_of_header(header) == (symbol, identifier)


PLAIN = """\
>B first
MKT
AYI
>A
mkt*
>B again
MKTAYI*
>B another
M*JK
"""


def test_isoforms_are_gathered_by_gene(tmp_path):
    path = tmp_path / "proteins.fa"
    path.write_text(PLAIN)
    proteins = read_proteins(path)
    assert proteins.isoforms == {"A": ("MKT",), "B": ("MKTAYI", "MXXK")}
    assert list(proteins.isoforms) == ["A", "B"]
    assert (proteins.duplicates, proteins.replaced, proteins.unnamed) == (1, 2, 0)
    assert str(proteins).startswith("3 proteins of 2 genes (1 with several); 1 duplicates left out; 2 stops")


def test_gzip_several_files_and_windows_line_ends_are_the_same(tmp_path):
    (tmp_path / "one.fa").write_text(PLAIN)
    first, second = PLAIN.split(">B again")
    (tmp_path / "first.fa").write_bytes(first.replace("\n", "\r\n").encode())
    # A compressed file need not be called so.
    (tmp_path / "second.fa").write_bytes(gzip.compress((">B again" + second).encode()))
    together = read_proteins([tmp_path / "first.fa", tmp_path / "second.fa"])
    assert together == read_proteins(tmp_path / "one.fa")
    assert together.digest == read_proteins(tmp_path / "one.fa").digest


def test_a_gene_without_the_name_asked_for_goes_by_the_other(tmp_path):
    path = tmp_path / "proteins.fa"
    path.write_text(">P1 gene:ENSG00000000001.2 gene_symbol:ABC\nMK\n>P2 gene:ENSG00000000002.5\nMK\n")
    assert list(read_proteins(path).isoforms) == ["ABC", "ENSG00000000002"]
    assert read_proteins(path).unnamed == 1
    assert list(read_proteins(path, names="id").isoforms) == ["ENSG00000000001", "ENSG00000000002"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no sequences"),
        ("MKT\n", "line 1 comes before"),
        (">\nMKT\n", "line 1: the header is empty"),
        (">A\n\n>B\nMK\n", "sequence of A is empty"),
        (">A\n*\n", "sequence of A is empty"),
        (">A\nMK-T\n", "sequence of A has '-'"),
        (">A\nMK1\n", "has '1'"),
        (">A\n" + "ACGT" * 60, "holds nucleotides"),
    ],
)
def test_what_is_no_protein_file_is_refused(text, message, tmp_path):
    path = tmp_path / "proteins.fa"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_proteins(path)


def test_a_damaged_file_is_refused(tmp_path):
    path = tmp_path / "proteins.fa.gz"
    path.write_bytes(gzip.compress(PLAIN.encode() * 50)[:-20])
    with pytest.raises(ValueError, match=r"proteins.fa.gz is not a text file in UTF-8, or a damaged one"):
        read_proteins(path)


def test_real_proteins(shared_data):
    proteins = read_proteins(shared_data / "human_proteins_ensembl_pep_subset.fa.gz")
    assert sum(map(len, proteins.isoforms.values())) + proteins.duplicates == 1662
    assert proteins.unnamed == 45
