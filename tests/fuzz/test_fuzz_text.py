"""Text files of any content: splits, protein sequences, manifests, gene lists, alias tables, profiles."""

import gzip

from hypothesis import given
from hypothesis import strategies as st

from state_hf import StateEmbeddingTokenizer
from state_hf.data.corpus.corpus_manifest import read_manifest
from state_hf.data.screens.split_toml import dataset_files, read_split_toml, write_split_toml
from state_hf.gene_embeddings.protein_fasta import RESIDUES, read_proteins
from state_hf.metrics.profiles import load_profile, profile_names
from state_hf.tokenization.gene_aliases import AliasTable, read_gene_aliases
from tests.fuzz.cases import fuzzed, one_case
from tests.fuzz.damaged_bytes import byte_damages, damaged

SPLIT = b"""\
[datasets]
one = "data/{a,b}.h5ad"
"two.x" = "screens/*.h5ad"

[training]
one = "train"

[zeroshot]
"one.T cell" = "val"
"two.x.B" = "test"

[fewshot."one.NK"]
val = ["GENE1"]
test = ["GENE2", "GENE3"]

[exclude]
"one.NK" = ["GENE4"]
"""
SPLIT_WORDS = [
    b"[datasets]", b"[training]", b"[zeroshot]", b"[fewshot]", b"[exclude]", b'"', b"'", b"[[", b"]]", b"{", b"}", b"=",
    b"\n", b".", b"*", b"**", b"/", b"..", b"1", b"true", b"inf", b"1979-05-27", b"[1,2]", b'"""', b"\\u0000", b"val",
]  # fmt: skip


def round_trip_split(path):
    split = read_split_toml(path)
    copy = path.with_name("copy.toml")
    write_split_toml(split, copy)
    assert read_split_toml(copy) == split
    dataset_files(split, base=path.parent / "nowhere")


@fuzzed
@given(damages=byte_damages(SPLIT_WORDS))
def test_split(folder, damages):
    path = folder / "split.toml"
    path.write_bytes(damaged(SPLIT, damages))
    with one_case():
        round_trip_split(path)


FASTA = b""">sp|P04637|P53_HUMAN Cellular tumor antigen GN=TP53 PE=1
MEEPQSDPSVEPPLSQETFSDLWK*
>ENSP00000269305.4 pep gene:ENSG00000141510.17 transcript:ENST1 gene_symbol:TP53
MEEPQSDPSVEP
LSQETFSDLWKLL
>ENSP1.1|ENST1.1|ENSG00000141510.18|-|-|TP53-201|TP53|393
MEEPQ
>GENE4 anything
acdefghikl
"""
FASTA_WORDS = [
    b">",
    b"\n>",
    b"|",
    b"*",
    b"-",
    b"gene:",
    b"gene_symbol:",
    b"GN=",
    b" ",
    b"\r",
    b"\x00",
    b"\xc2\xa0",
    b"\x1c",
]


@fuzzed
@given(damages=byte_damages(FASTA_WORDS), packed=st.booleans(), after=byte_damages())
def test_fasta(folder, damages, packed, after):
    path = folder / "proteins.fa"
    content = damaged(FASTA, damages)
    path.write_bytes(damaged(gzip.compress(content, mtime=0), after) if packed else content)
    for names in ("symbol", "id"):
        with one_case(path.name):
            proteins = read_proteins(path, names=names)
            assert all(gene and gene == gene.strip() for gene in proteins.isoforms)
            assert all(set(one) <= set(RESIDUES) and one for of in proteins.isoforms.values() for one in of)


MANIFEST = b"""path,dataset,species,gene_column,scale,layer
one.h5ad,first,human,index,counts,
two.h5ad,second,mouse,,log1p,raw
"three, four.h5ad",third,,symbol,,counts
"""
MANIFEST_WORDS = [
    b",",
    b'"',
    b"\n",
    b"\r",
    b"\t",
    b"path",
    b"scale",
    b"NA",
    b"nan",
    b"counts",
    b"log1p",
    b";",
    b"\x00",
    b"../",
]


@fuzzed
@given(damages=byte_damages(MANIFEST_WORDS), suffix=st.sampled_from(["csv", "tsv"]))
def test_manifest(folder, damages, suffix):
    path = folder / f"corpus.{suffix}"
    path.write_bytes(damaged(MANIFEST, damages))
    with one_case(path.name):
        for file in read_manifest(path):
            assert all([file.path, file.dataset, file.species])
            assert file.scale in ("counts", "log1p")


GENES = b"".join(b"GENE%d\n" % number for number in range(8))


@fuzzed
@given(damages=byte_damages([b"\n", b"\r", b" ", b"\x1c", b"\xe2\x80\xa8", b"[CLS]", b"GENE1", b"\xef\xbb\xbf"]))
def test_genes(folder, damages):
    path = folder / "genes.txt"
    path.write_bytes(damaged(GENES, damages))
    with one_case(path.name):
        tokenizer = StateEmbeddingTokenizer(path)
        again = StateEmbeddingTokenizer(list(tokenizer.genes))
        assert again.genes == tokenizer.genes
        tokenizer.save_pretrained(folder / "tokenizer")
        assert StateEmbeddingTokenizer.from_pretrained(folder / "tokenizer").genes == tokenizer.genes


ALIASES = b"""alias\tsymbol\tkind
P53\tTP53\talias
LFS1\tTP53\tprevious
ENSG00000141510\tTP53\tensembl_id
"""
HGNC = b"""hgnc_id\tsymbol\tstatus\talias_symbol\tprev_symbol\tensembl_gene_id
HGNC:1\tTP53\tApproved\tP53|LFS1\t\tENSG00000141510
HGNC:2\tA1\tApproved\t"X1|X2"\tY1\t
"""
GTF = b"""#!genome-build GRCh38
1\thavana\tgene\t1\t2\t.\t+\t.\tgene_id "ENSG00000141510.17"; gene_name "TP53";
1\thavana\ttranscript\t1\t2\t.\t+\t.\tgene_id "ENSG00000141510.17";
"""
TABLE_WORDS = [b"\t", b"\n", b"|", b'"', b"symbol", b"alias", b"\r", b"\x00", b",", b"gene_id", b"#", b"Approved"]


@fuzzed
@given(damages=byte_damages(TABLE_WORDS))
def test_alias_table(folder, damages):
    path = folder / "gene_aliases.tsv"
    path.write_bytes(damaged(ALIASES, damages))
    with one_case(path.name):
        table = AliasTable.from_file(path)
        for name in ("P53", "TP53", "other"):
            assert set(table.known_as(name, {"TP53": 0, "LFS1": 1})) <= {"TP53", "LFS1"}


@fuzzed
@given(damages=byte_damages(TABLE_WORDS), content=st.sampled_from([ALIASES, HGNC, GTF]), packed=st.booleans())
def test_alias_import(folder, damages, content, packed):
    path = folder / "names.tsv"
    path.write_bytes(damaged(gzip.compress(content, mtime=0) if packed else content, damages))
    with one_case(path.name):
        aliases = read_gene_aliases(path)
        assert all(alias.alias and alias.symbol and alias.alias != alias.symbol for alias in aliases)


@fuzzed
@given(name=st.one_of(st.text(max_size=8), st.sampled_from(profile_names()), st.just("../profiles/vcc2025")))
def test_profile(name):
    """A profile is one of the package's own; no file of a user is read."""
    with one_case():
        assert load_profile(name).name == name
