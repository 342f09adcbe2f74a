import gzip
import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from state_hf.tokenization.gene_aliases import AliasTable
from state_hf.tokenization.gene_names import GeneIndex, GeneReport, resolve_genes
from state_hf.tokenization.state_embedding import StateEmbeddingTokenizer

GENES = ["TP53", "GAPDH", "KIAA1468", "LYZ"]
ALIASES = AliasTable(
    "alias\tsymbol\tkind\n"
    "ENSG00000141510\tTP53\tensembl_id\n"
    "P53\tTP53\talias\n"
    "KIAA1468\tRELCH\tprevious\n"
    "G3PD\tGAPDH\talias\n"
    "TWIN\tGAPDH\talias\n"
    "TWIN\tLYZ\talias\n"
    "ALIAS_OF_LYZ\tLYZ\talias\n"
    "OWN_ID\tALIAS_OF_LYZ\tensembl_id\n"
)


def frame(*names, **columns) -> pd.DataFrame:
    return pd.DataFrame(columns, index=list(names))


def test_columns_are_found_by_symbol_id_and_alias():
    report = resolve_genes(frame("LYZ", "ENSG00000141510.17", "G3PD", "NONE"), GENES, aliases=ALIASES)
    assert report.columns.tolist() == [3, 0, 1, -1]
    assert report.genes.tolist() == [0, 1, 3]
    assert (report.by_symbol, report.by_id, report.by_alias, report.missing) == (1, 1, {"G3PD": "GAPDH"}, ("NONE",))
    assert report.overlap == 0.75


def test_a_vocabulary_with_an_old_symbol_knows_the_new_one():
    assert resolve_genes(frame("RELCH"), GENES, aliases=ALIASES).columns.tolist() == [2]


def test_a_vocabulary_of_ids_knows_symbols():
    vocabulary = ["ENSG00000141510.9", "ENSG00000000001"]
    assert resolve_genes(frame("TP53"), vocabulary, aliases=ALIASES).columns.tolist() == [0]
    assert resolve_genes(frame("ENSG00000141510"), vocabulary).by_id == 1


def test_ambiguous_names_are_left_out():
    report = resolve_genes(frame("TP53", "TWIN"), GENES, aliases=ALIASES)
    assert report.columns.tolist() == [0, -1]
    assert report.ambiguous == {"TWIN": ["GAPDH", "LYZ"]}


def test_a_current_symbol_is_no_other_genes_alias():
    report = resolve_genes(frame("TP53", "ALIAS_OF_LYZ"), GENES, aliases=ALIASES)
    assert report.columns.tolist() == [0, -1]
    assert report.missing == ("ALIAS_OF_LYZ",)


def test_the_own_name_wins_over_an_alias_then_the_first_column():
    report = resolve_genes(frame("P53", "TP53", "LYZ", "LYZ"), GENES, aliases=ALIASES)
    assert report.columns.tolist() == [-1, 0, 3, -1]
    assert report.duplicates == {"P53": "TP53", "LYZ": "LYZ"}


def test_the_best_column_is_found():
    var = frame("0", "1", "2", feature_name=pd.Categorical(["TP53", "LYZ", None]), number=[1, 2, 3])
    var.index.name = "soma_joinid"
    report = resolve_genes(var.set_axis(["a", "b", "c"]), GENES)
    assert report.column == "feature_name"
    assert report.columns.tolist() == [0, 3, -1]
    # A column that is called like the index does not hide it: each is tried, and each can be asked for.
    hidden = frame("TP53", "LYZ", "X", index=["LYZ", "Y", "Z"])
    assert resolve_genes(hidden, GENES).columns.tolist() == [0, 3, -1]
    assert resolve_genes(hidden, GENES, gene_column="index").columns.tolist() == [0, 3, -1]
    assert resolve_genes(hidden, GENES, gene_column="var['index']").columns.tolist() == [3, -1, -1]
    other = resolve_genes(frame("a", "b", index=["LYZ", "TP53"]), GENES)
    assert (other.column, other.columns.tolist()) == ("var['index']", [3, 0])
    assert "looked up by var['index']:" in str(other)
    # The index wins where others match as often.
    assert resolve_genes(frame("TP53", gene_name=["TP53"]), GENES).column == "index"
    assert resolve_genes(frame("TP53", gene_name=["TP53"]), GENES, gene_column="gene_name").column == "gene_name"
    assert resolve_genes(frame("TP53", gene_name=["LYZ"]), GENES, gene_column="index").columns.tolist() == [0]
    with pytest.raises(ValueError, match=r"no column 'symbols'; it has the index and gene_name\."):
        resolve_genes(frame("TP53", gene_name=["TP53"]), GENES, gene_column="symbols")


def test_names_that_differ_in_case_are_reported_not_matched():
    report = resolve_genes(frame("TP53", "Gapdh"), GENES)
    assert report.columns.tolist() == [0, -1]
    assert report.near == {"Gapdh": "GAPDH"}
    assert "different in case only: Gapdh (GAPDH)" in str(report)


def test_the_report_reads_well():
    report = resolve_genes(frame("LYZ", "ENSG00000141510.17", "G3PD", "P53", "TWIN", "NONE"), GENES, aliases=ALIASES)
    assert str(report) == (
        "3 of 6 genes are in the vocabulary of 4, looked up by the index of var: 1 by symbol, 1 by id, 1 by alias\n"
        "  by alias: G3PD = GAPDH\n"
        "  ambiguous, left out: TWIN (GAPDH or LYZ)\n"
        "  second column of a gene, left out: P53 (is TP53)\n"
        "  missing from the vocabulary: NONE"
    )


def test_the_report_can_be_stored(tmp_path):
    report = resolve_genes(frame("LYZ", "TWIN", "HLA-A/B"), GENES, aliases=ALIASES)
    stored = report.to_dict()
    assert json.loads(json.dumps(stored)) == stored
    adata = ad.AnnData(np.ones((1, 3)), uns={"genes": stored})
    adata.write_h5ad(tmp_path / "x.h5ad")
    read = ad.read_h5ad(tmp_path / "x.h5ad").uns["genes"]
    assert (read["matched"], list(read["missing"])) == (1, ["HLA-A/B"])


def test_too_little_overlap_shows_both_sides():
    with pytest.raises(ValueError, match="Only 1 of the dataset's 4 genes") as error:
        resolve_genes(frame("A", "B", "Lyz", "TP53"), GENES)
    message = str(error.value)
    assert "overlap of 25.0%, and min_overlap is 30%" in message
    assert "the dataset has, for instance:    A, B, Lyz" in message
    assert "the vocabulary has, for instance: GAPDH, KIAA1468, LYZ" in message
    assert "1 names differ in case only (Lyz / LYZ): another species?" in message
    assert resolve_genes(frame("A", "B", "C", "TP53"), GENES, min_overlap=0.25).overlap == 0.25


def test_ids_without_a_table_point_to_the_remedy():
    with pytest.raises(ValueError, match="state-hf genes import"):
        resolve_genes(frame("ENSG00000141510"), GENES)


def test_a_small_panel_and_a_large_file_are_both_accepted():
    vocabulary = [f"G{row}" for row in range(1000)]
    assert resolve_genes(frame(*vocabulary[:20]), vocabulary).overlap == 1
    assert resolve_genes(frame(*vocabulary, *map(str, range(9000))), vocabulary).overlap == 1


def test_nothing_at_all_is_refused():
    with pytest.raises(ValueError, match="Only 0 of the dataset's 1"):
        resolve_genes(frame("A"), GENES, min_overlap=0)


@pytest.mark.parametrize("rows", [[0, 1, 0], [-1, 4, 0]])
def test_a_report_that_is_no_mapping_is_refused(rows):
    with pytest.raises(ValueError, match="at most once, and none above 3"):
        GeneReport(columns=np.array(rows), names=("A", "B", "C"), column="index", vocabulary_size=4)


def test_near_names():
    index = GeneIndex(GENES)
    assert index.near("lyz") == ["LYZ"]
    assert index.near("GAPDHS") == ["GAPDH"]
    assert index.near("zzzz") == []


@pytest.fixture(scope="module")
def gencode(shared_data, tmp_path_factory) -> StateEmbeddingTokenizer:
    with gzip.open(shared_data / "genes" / "gencode_v44_symbols.tsv.gz", "rt") as file:
        pairs = [line.rstrip("\n").split("\t") for line in file][1:]
    named = [(alias, symbol) for alias, symbol in pairs if symbol and symbol != alias]
    aliases = tmp_path_factory.mktemp("gencode") / "gene_aliases.tsv"
    aliases.write_text("alias\tsymbol\n" + "".join(f"{alias}\t{symbol}\n" for alias, symbol in named))
    return StateEmbeddingTokenizer(list(dict.fromkeys(symbol for _, symbol in named)), aliases)


def test_real_human_data_resolve(shared_data, gencode):
    for path in sorted(shared_data.glob("*.h5ad")):
        adata = ad.read_h5ad(path, backed="r")
        report = resolve_genes(adata.var, gencode)
        assert report.overlap > 0.75, f"{path.name}: {report}"
        assert len(set(report.genes)) == len(report.genes)
        adata.file.close()


def test_real_ids_give_the_genes_of_their_symbols(shared_data, gencode):
    adata = ad.read_h5ad(shared_data / "scrna_tian2019_scmixology_lung_cell_lines.h5ad", backed="r")
    by_id = resolve_genes(adata.var, gencode, gene_column="ensembl_id")
    by_symbol = resolve_genes(adata.var, gencode, gene_column="gene_name")
    adata.file.close()
    both = (by_id.columns >= 0) & (by_symbol.columns >= 0)
    assert both.mean() > 0.8
    assert (by_id.columns[both] == by_symbol.columns[both]).mean() > 0.999


def test_real_mouse_genes_are_refused(shared_data, gencode):
    mouse = pd.read_csv(shared_data / "genes" / "mouse_symbol_to_human_symbol.tsv.gz", sep="\t", index_col=0)
    with pytest.raises(ValueError, match="another species"):
        resolve_genes(mouse[[]], gencode)
    ids = pd.read_csv(shared_data / "genes" / "mouse_ensembl_to_human_symbol.tsv.gz", sep="\t", index_col=0)
    with pytest.raises(ValueError, match=r"overlap of 0\.0%"):
        resolve_genes(ids[[]], gencode)
