from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

import state_hf
from state_hf.configuration.state_embedding import StateEmbeddingConfig
from state_hf.tokenization.cell_matrix import expression_of
from state_hf.tokenization.gene_names import GeneReport, resolve_genes
from state_hf.tokenization.state_embedding import StateEmbeddingTokenizer

GENES = ["TP53", "GAPDH", "ACTB", "CD3E", "MS4A1", "LYZ"]
CLS, PAD = 6, 7
PEER = np.load(Path(__file__).parents[1] / "fixtures" / "cell_sentences.npz")


@pytest.fixture
def tokenizer():
    return StateEmbeddingTokenizer(GENES, model_max_length=4)


def numbered(genes: int, **options) -> StateEmbeddingTokenizer:
    return StateEmbeddingTokenizer([f"G{row}" for row in range(genes)], **options)


def encoded(tokenizer, cells, genes, **options):
    batch = tokenizer.encode_cells(cells, genes, return_tensors="np", **options)
    return batch["input_ids"], batch["expression"], batch["attention_mask"]


def assert_same(one, other):
    for left, right in zip(one, other, strict=True):
        np.testing.assert_array_equal(left, right)


# Sentences that can be checked by hand


def test_genes_are_ranked_and_carry_their_share(tokenizer):
    counts = np.array([[0, 3, 1, 7, 0, 0]])
    ids, expression, mask = encoded(tokenizer, counts, GENES)
    assert ids.tolist() == [[CLS, 3, 1, 2]]
    # log2(1 + 7, 3, 1) = 3, 2, 1: the base of the logarithm cancels.
    np.testing.assert_allclose(expression, [[0, 50, 100 / 3, 50 / 3]], rtol=1e-6)
    assert mask.tolist() == [[1, 1, 1, 1]]


def test_genes_cut_off_still_count_in_the_total(tokenizer):
    counts = np.array([[0, 3, 1, 7, 0, 0]])
    ids, expression, _ = encoded(tokenizer, counts, GENES, max_length=2)
    assert ids.tolist() == [[CLS, 3]]
    np.testing.assert_allclose(expression, [[0, 50]], rtol=1e-6)


def test_unknown_columns_count_nowhere(tokenizer):
    counts = np.array([[900, 7, 1]])
    ids, expression, _ = encoded(tokenizer, counts, ["UNKNOWN", "LYZ", "TP53"], fill="none")
    assert ids.tolist() == [[CLS, 5, 0]]
    np.testing.assert_allclose(expression, [[0, 75, 25]], rtol=1e-6)


def test_log1p_is_taken_as_it_is(tokenizer):
    ids, expression, _ = encoded(tokenizer, np.array([[0, 0.5, 0, 1.5, 0, 0]]), GENES, input_type="log1p", fill="none")
    assert ids.tolist() == [[CLS, 3, 1]]
    np.testing.assert_allclose(expression, [[0, 75, 25]], rtol=1e-6)


def test_fill_none_pads_to_the_longest_of_the_batch(tokenizer):
    counts = np.array([[0, 3, 0, 7, 0, 0], [0, 0, 0, 0, 0, 2], [0, 0, 0, 0, 0, 0]])
    ids, expression, mask = encoded(tokenizer, counts, GENES, fill="none")
    assert ids.tolist() == [[CLS, 3, 1], [CLS, 5, PAD], [CLS, PAD, PAD]]
    np.testing.assert_allclose(expression, [[0, 60, 40], [0, 100, 0], [0, 0, 0]], rtol=1e-6)
    assert mask.tolist() == [[1, 1, 1], [1, 1, 0], [1, 0, 0]]


def test_an_empty_cell_is_uniform(tokenizer):
    ids, expression, mask = encoded(tokenizer, np.zeros((1, 6), int), GENES)
    assert sorted(ids[0, 1:]) == sorted(set(ids[0, 1:]))
    np.testing.assert_allclose(expression, [[0, 100 / 6, 100 / 6, 100 / 6]], rtol=1e-6)
    assert mask.all()


def test_no_cells(tokenizer):
    assert encoded(tokenizer, np.zeros((0, 6)), GENES)[0].shape == (0, 4)
    assert encoded(tokenizer, np.zeros((0, 6)), GENES, fill="none")[0].shape == (0, 1)


def test_cls_carries_the_fourth_known_gene():
    tokenizer = StateEmbeddingTokenizer(GENES, model_max_length=4, cls_expression="gene_3")
    counts = np.array([[7, 0, 0, 0, 1], [0, 0, 0, 0, 0]])
    _, expression, _ = encoded(tokenizer, counts, ["LYZ", "UNKNOWN", "GAPDH", "ACTB", "TP53"])
    np.testing.assert_allclose(expression[:, 0], [25, 100 / 4], rtol=1e-6)
    with pytest.raises(ValueError, match="3 genes of the vocabulary; at least 4"):
        tokenizer.encode_cells(counts[:, :3], ["LYZ", "TP53", "ACTB"])


def test_too_few_genes_are_filled_with_repeated_unexpressed_ones():
    tokenizer = StateEmbeddingTokenizer(GENES, model_max_length=12)
    ids, expression, mask = encoded(tokenizer, np.array([[5, 0, 9]]), ["TP53", "GAPDH", "ACTB"])
    assert ids.tolist() == [[CLS, 2, 0] + [1] * 9]
    assert expression[0, 3:].tolist() == [0] * 9
    assert mask.all()


def test_nothing_to_fill_with_is_padded():
    tokenizer = StateEmbeddingTokenizer(GENES, model_max_length=5)
    ids, _, mask = encoded(tokenizer, np.array([[5, 1, 9]]), ["TP53", "GAPDH", "ACTB"])
    assert ids.tolist() == [[CLS, 2, 0, 1, PAD]]
    assert mask.tolist() == [[1, 1, 1, 1, 0]]


def test_decode_cells_leaves_special_tokens_out(tokenizer):
    counts = np.array([[0, 3, 0, 7, 0, 0], [0, 0, 0, 0, 0, 0]])
    ids = tokenizer.encode_cells(counts, GENES, fill="none")["input_ids"]
    assert tokenizer.decode_cells(ids) == [["CD3E", "GAPDH"], []]
    with pytest.raises(ValueError, match="the ids go from 0 to 7"):
        tokenizer.decode_cells([[0, 8]])


def test_tensors_are_ready_for_the_model(tokenizer):
    batch = tokenizer.encode_cells(np.ones((2, 6)), GENES)
    assert {name: tensor.dtype for name, tensor in batch.items()} == {
        "input_ids": torch.int64,
        "expression": torch.float32,
        "attention_mask": torch.int64,
    }
    assert batch.to("cpu")["input_ids"].shape == (2, 4)


# The peer's sentences


def peer_case(name: str):
    case = {key: PEER[f"{name}.{key}"] for key in ("counts", "rows", "length", "input_ids", "expression")}
    known = int(case["rows"].max()) + 1
    tokenizer = numbered(known, model_max_length=int(case["length"]), cls_expression="gene_3")
    names = tuple(f"column {at}" for at in range(len(case["rows"])))
    rows = case["rows"].astype(np.int64)
    return case, tokenizer, GeneReport(columns=rows, names=names, column="index", vocabulary_size=known)


@pytest.mark.parametrize("name", ["full_length", "short", "log1p"])
def test_against_arc_state(name):
    case, tokenizer, report = peer_case(name)
    input_type = "log1p" if name == "log1p" else "counts"
    ids, expression, mask = encoded(tokenizer, case["counts"], report, input_type=input_type)
    # Position 0 is the model's [CLS], for which the peer stores the id of a gene.
    np.testing.assert_array_equal(ids[:, 1:], case["input_ids"][:, 1:])
    np.testing.assert_allclose(expression, case["expression"], atol=1e-6)
    assert mask.all()


@pytest.mark.parametrize("name", ["sparse", "few_genes"])
@pytest.mark.parametrize("fill", ["seeded", "original"])
def test_against_arc_state_where_it_draws_unexpressed_genes(name, fill):
    case, tokenizer, report = peer_case(name)
    ids, expression, mask = encoded(tokenizer, case["counts"], report, fill=fill)
    np.testing.assert_allclose(expression, case["expression"], rtol=1e-6, atol=1e-6)
    expressed = (case["counts"] > 0).sum(axis=1)
    for ours, theirs, number in zip(ids, case["input_ids"], expressed, strict=True):
        kept = 1 + min(number, len(ours) - 1)
        np.testing.assert_array_equal(ours[1:kept], theirs[1:kept])
        # The rest: unexpressed genes, without repetition if the dataset has enough of them.
        assert not set(ours[kept:]) & set(ours[1:kept])
        for sentence in (ours, theirs):
            assert (len(set(sentence[1:])) == len(sentence) - 1) == (name == "sparse")
    assert mask.all()


# Properties

blocks = st.integers(0, 2**32 - 1).map(
    lambda seed: np.random.default_rng(seed).poisson(np.random.default_rng(seed).gamma(0.3, 3, size=(5, 30)))
)
fills = st.sampled_from(["seeded", "none"])
SMALL, NAMES = numbered(40, model_max_length=16), [f"G{row}" for row in range(5, 35)]


@settings(max_examples=30)
@given(counts=blocks, fill=fills, seed=st.integers(0, 2**64 - 1), order=st.permutations(range(30)))
def test_the_order_of_columns_does_not_matter(counts, fill, seed, order):
    shuffled = [NAMES[at] for at in order]
    one = encoded(SMALL, counts, NAMES, fill=fill, seed=seed)
    assert_same(one, encoded(SMALL, counts[:, order], shuffled, fill=fill, seed=seed))


@settings(max_examples=30)
@given(counts=blocks, fill=st.sampled_from(["seeded", "original"]), cut=st.integers(0, 5))
def test_the_batch_does_not_matter(counts, fill, cut):
    whole = encoded(SMALL, counts, NAMES, fill=fill, first_cell=7)
    first = encoded(SMALL, counts[:cut], NAMES, fill=fill, first_cell=7)
    second = encoded(SMALL, counts[cut:], NAMES, fill=fill, first_cell=7 + cut)
    assert_same(whole, [np.concatenate(parts) for parts in zip(first, second, strict=True)])


@settings(max_examples=30)
@given(counts=blocks)
def test_a_cell_has_one_sentence_wherever_it_lies(counts):
    assert_same(encoded(SMALL, counts, NAMES), [array[::-1] for array in encoded(SMALL, counts[::-1], NAMES)])


@settings(max_examples=30)
@given(counts=blocks)
def test_fill_none_is_the_expressed_genes(counts):
    tokenizer = numbered(40)
    batch = tokenizer.encode_cells(counts, NAMES, fill="none")
    for genes, cell in zip(tokenizer.decode_cells(batch["input_ids"]), counts, strict=True):
        assert len(genes) == len(set(genes))
        assert set(genes) == {NAMES[at] for at in np.flatnonzero(cell)}
        assert [cell[NAMES.index(gene)] for gene in genes] == sorted(cell[cell > 0], reverse=True)
    np.testing.assert_allclose(batch["expression"].sum(dim=1), 100 * (counts.sum(axis=1) > 0), rtol=1e-5)


@settings(max_examples=30)
@given(counts=blocks)
def test_a_longer_sentence_begins_with_the_shorter_one(counts):
    long, short = numbered(40), 9
    ids, expression, _ = encoded(long, counts, NAMES, max_length=25)
    assert_same((ids[:, :short], expression[:, :short]), encoded(long, counts, NAMES, max_length=short)[:2])


FORMATS = {
    "csr_matrix": sp.csr_matrix,
    "csc": sp.csc_array,
    "coo": sp.coo_array,
    "int64 indices": lambda x: sp.csr_array((sp.csr_array(x).data, *map(np.int64, _structure(x))), shape=x.shape),
    "unsorted": lambda x: sp.csr_array(sp.csr_array(x[:, ::-1])[:, np.arange(x.shape[1])[::-1]]),
    "explicit zeros": lambda x: sp.csr_array((x.ravel(), np.tile(np.arange(30), 5), np.arange(0, 151, 30)), (5, 30)),
    "split entries": lambda x: sp.csr_array((np.repeat(x.ravel() / 2, 2), _twice(), np.arange(0, 301, 60)), (5, 30)),
    "Fortran order": np.asfortranarray,
    **{dtype: lambda x, dtype=dtype: x.astype(dtype) for dtype in ("uint8", "int16", "uint64", "float16", "float64")},
    "sparse uint16": lambda x: sp.csr_array(x.astype("uint16")),
}


def _structure(x):
    return sp.csr_array(x).indices, sp.csr_array(x).indptr


def _twice():
    return np.tile(np.repeat(np.arange(30), 2), 5)


@pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS.keys())
def test_the_format_does_not_matter(form):
    counts = np.random.default_rng(1).poisson(np.random.default_rng(1).gamma(0.3, 3, size=(5, 30)))
    assert_same(encoded(SMALL, counts, NAMES), encoded(SMALL, form(counts), NAMES))


def test_inputs_are_left_as_they_are():
    cells = FORMATS["split entries"](np.ones((5, 30)))
    before = cells.copy()
    SMALL.encode_cells(cells, NAMES)
    np.testing.assert_array_equal(cells.indices, before.indices)
    np.testing.assert_array_equal(cells.data, before.data)


def test_the_number_of_threads_does_not_matter():
    counts = np.random.default_rng(0).poisson(0.3, size=(200, 30))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = encoded(SMALL, counts, NAMES, fill="original")
        torch.set_num_threads(3)
        assert_same(one, encoded(SMALL, counts, NAMES, fill="original"))
    finally:
        torch.set_num_threads(threads)


def test_the_seed_moves_ties_and_fill_only():
    counts = np.array([[9, 5, 5, 5, 5] + [0] * 25])
    one, other = (encoded(SMALL, counts, NAMES, seed=seed) for seed in (0, 1))
    np.testing.assert_array_equal(one[1], other[1])
    assert one[0][0, 1] == other[0][0, 1]
    assert set(one[0][0, 2:6]) == set(other[0][0, 2:6])
    assert (one[0] != other[0]).any()


def test_similar_cells_get_similar_fill():
    counts = np.zeros((2, 30), int)
    counts[:, 0], counts[1, 3] = 4, 1
    ids, _, _ = encoded(SMALL, counts, NAMES)
    first, second = (set(sentence) for sentence in ids)
    assert len(first & second) >= 15


# Text


def test_text_becomes_a_sentence(tokenizer):
    assert tokenizer("TP53 GAPDH")["input_ids"] == [CLS, 0, 1]
    batch = tokenizer(["TP53 GAPDH LYZ", "ACTB"], padding=True, return_tensors="pt")
    assert batch["input_ids"].tolist() == [[CLS, 0, 1, 5], [CLS, 2, PAD, PAD]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert tokenizer.decode([CLS, 0, 1], skip_special_tokens=True) == "TP53 GAPDH"
    assert tokenizer.tokenize("TP53 GAPDH") == ["TP53", "GAPDH"]
    assert (len(tokenizer), tokenizer.vocab_size, tokenizer.cls_token_id, tokenizer.pad_token_id) == (8, 6, 6, 7)


def test_text_options_of_every_tokenizer(tokenizer):
    batch = tokenizer("TP53 GAPDH LYZ", return_special_tokens_mask=True, truncation=True, max_length=3)
    assert batch["input_ids"] == [CLS, 0, 1]
    assert batch["special_tokens_mask"] == [1, 0, 0]
    assert tokenizer("TP53", add_special_tokens=False)["input_ids"] == [0]
    assert tokenizer.convert_tokens_to_ids(["LYZ", "[PAD]"]) == [5, PAD]


def test_unknown_genes_in_text_are_named(tokenizer):
    with pytest.raises(ValueError, match=r"no gene 'tp53' among the 6 .* Did you mean TP53\?"):
        tokenizer("tp53")
    with pytest.raises(ValueError, match=r"no gene 'GAPDHS' .* GAPDH\?"):
        tokenizer("TP53 GAPDHS")
    with pytest.raises(ValueError, match="text pairs have no meaning"):
        tokenizer("TP53", "GAPDH")


def test_text_knows_other_names(tmp_path):
    aliases = tmp_path / "gene_aliases.tsv"
    aliases.write_text("alias\tsymbol\nP53\tTP53\nENSG00000141510\tTP53\nBOTH\tTP53\nBOTH\tLYZ\n")
    tokenizer = StateEmbeddingTokenizer(GENES, aliases)
    assert tokenizer("P53 ENSG00000141510.17")["input_ids"] == [CLS, 0, 0]
    with pytest.raises(ValueError, match="'BOTH' is ambiguous: it may be TP53 or LYZ"):
        tokenizer("BOTH")


# Files


def test_saved_and_loaded_it_is_the_same(tmp_path):
    aliases = tmp_path / "other.tsv"
    aliases.write_text("alias\tsymbol\tkind\nP53\tTP53\talias\n")
    tokenizer = StateEmbeddingTokenizer(GENES, aliases, cls_expression="gene_3", fill="none", model_max_length=5)
    tokenizer.save_pretrained(tmp_path / "model")
    assert (tmp_path / "model" / "genes.txt").read_text() == "".join(f"{gene}\n" for gene in GENES)
    assert (tmp_path / "model" / "gene_aliases.tsv").read_text() == aliases.read_text()
    loaded = StateEmbeddingTokenizer.from_pretrained(tmp_path / "model")
    assert (loaded.genes, loaded.cls_expression, loaded.fill, loaded.model_max_length) == (GENES, "gene_3", "none", 5)
    counts = np.array([[0, 1, 0, 2, 0, 0]])
    assert loaded.encode_cells(counts, GENES)["input_ids"].shape == (1, 3)
    assert loaded.encode_cells(counts, GENES, fill="seeded")["input_ids"].shape == (1, 5)
    assert loaded.get_vocab() == tokenizer.get_vocab()
    assert loaded("P53")["input_ids"] == [CLS, 0]
    assert (loaded.cls_token_id, loaded.pad_token_id) == (CLS, PAD)


def test_without_aliases_no_alias_file_is_written(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    assert not (tmp_path / "gene_aliases.tsv").exists()
    assert StateEmbeddingTokenizer.from_pretrained(tmp_path)("LYZ")["input_ids"] == [CLS, 5]


def test_auto_tokenizer_knows_it(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    StateEmbeddingConfig().save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert type(loaded) is state_hf.StateEmbeddingTokenizer
    assert loaded.get_vocab() == tokenizer.get_vocab()


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("TP53\n\nLYZ\n", "line 2: '' is not a gene name"),
        ("TP53\nA B\n", "line 2: 'A B' is not a gene name"),
        ("TP53\nLYZ\nTP53\n", "line 3: TP53 is already on line 1"),
        ("[CLS]\n", "not a gene name"),
        ("", "holds 0 genes"),
    ],
)
def test_a_bad_vocabulary_is_refused(tmp_path, lines, message):
    (tmp_path / "genes.txt").write_text(lines)
    with pytest.raises(ValueError, match=message):
        StateEmbeddingTokenizer(tmp_path / "genes.txt")


def test_an_unknown_cls_expression_is_refused():
    with pytest.raises(ValueError, match="cls_expression is 'gene_4'"):
        StateEmbeddingTokenizer(GENES, cls_expression="gene_4")
    with pytest.raises(ValueError, match="fill is 'zeros'"):
        StateEmbeddingTokenizer(GENES, fill="zeros")


# AnnData


def annotated() -> ad.AnnData:
    counts = sp.csr_matrix(np.array([[0, 3, 1, 7, 0, 9], [1, 0, 0, 0, 2, 9]], np.float32))
    adata = ad.AnnData(counts, var=pd.DataFrame(index=[*GENES[:5], "UNKNOWN"]))
    adata.layers["log"] = counts.log1p()
    adata.raw = adata[:, ::-1].copy()
    return adata


def test_anndata_in_every_guise(tokenizer, tmp_path):
    adata = annotated()
    adata.write_h5ad(tmp_path / "cells.h5ad")
    backed = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    expected = encoded(tokenizer, adata.X, resolve_genes(adata.var, tokenizer), fill="none")
    dense = adata.copy()
    dense.X = dense.X.toarray()
    dense.write_h5ad(tmp_path / "dense.h5ad")
    for guise in (adata, backed, dense, ad.read_h5ad(tmp_path / "dense.h5ad", backed="r")):
        assert_same(expected, encoded(tokenizer, guise, None, fill="none"))
    whole = encoded(tokenizer, adata, None)
    for view in (adata[1:], backed[1:]):
        assert_same([part[1:] for part in whole], encoded(tokenizer, view, None))
    for layered in (adata, backed):
        assert_same(expected[::2], encoded(tokenizer, layered, None, layer="log", input_type="log1p", fill="none")[::2])
        assert_same(expected, encoded(tokenizer, layered, None, layer="raw", fill="none"))
    backed.file.close()


def test_anndata_is_checked(tokenizer):
    adata = annotated()
    with pytest.raises(ValueError, match="no layer 'counts'; it has: log, raw"):
        tokenizer.encode_cells(adata, layer="counts")
    with pytest.raises(ValueError, match="said to be counts, but they look like log1p"):
        tokenizer.encode_cells(adata, layer="log")
    with pytest.raises(ValueError, match="AnnData brings its own genes"):
        tokenizer.encode_cells(adata, GENES)
    with pytest.raises(ValueError, match="no column 'gene_name'"):
        tokenizer.encode_cells(adata, gene_column="gene_name")
    with pytest.raises(ValueError, match="has no X"):
        expression_of(ad.AnnData(obs=adata.obs, var=adata.var))


# What is refused


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -1.0, 1e39])
@pytest.mark.parametrize("form", [np.asarray, sp.csr_array, sp.csc_array])
def test_values_that_are_no_expression_are_refused(tokenizer, value, form):
    cells = np.ones((3, 6))
    cells[1, 4] = cells[2, 0] = value
    with pytest.raises(ValueError, match=r"2 values in 2 of 3 cells .* of gene MS4A1 in cell 1"):
        tokenizer.encode_cells(form(cells), GENES)


@pytest.mark.parametrize("dtype", ["bool", "complex64", "object", "U1"])
def test_types_that_are_no_expression_are_refused(tokenizer, dtype):
    with pytest.raises(ValueError, match="has to hold integers or floats"):
        tokenizer.encode_cells(np.ones((1, 6)).astype(dtype), GENES)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"genes": None}, "does not name its columns"),
        ({"genes": GENES[:5]}, "6 columns, but genes names 5"),
        ({"genes": ["A", "B", "C", "D", "E", "F"]}, "Only 0 of the dataset's 6 genes"),
        ({"genes": numbered(3).gene_index.report(GENES, column="index")}, "vocabulary of 3 genes, not of 6"),
        ({"cells": np.ones(6)}, "has 1 dimensions"),
        ({"input_type": "auto"}, "check_input_type decides for a dataset"),
        ({"input_type": "tpm"}, "input_type is 'tpm'"),
        ({"fill": "random"}, "fill is 'random'"),
        ({"return_tensors": "tf"}, "return_tensors is 'tf'"),
        ({"seed": -1}, "seed is -1"),
        ({"max_length": 1}, "max_length is 1"),
        ({"layer": "counts"}, "layer and gene_column are for AnnData"),
    ],
)
def test_bad_arguments_are_named(tokenizer, options, message):
    with pytest.raises(ValueError, match=message):
        tokenizer.encode_cells(**({"cells": np.ones((1, 6)), "genes": GENES} | options))


def test_large_integers_do_not_overflow(tokenizer):
    counts = np.array([[2**63, 2**62, 1, 0, 0, 0]], np.uint64)
    ids, expression, _ = encoded(tokenizer, counts, GENES)
    assert ids.tolist() == [[CLS, 0, 1, 2]]
    np.testing.assert_allclose(expression[0, 1:], 100 * np.array([63, 62, 1]) / 126, rtol=1e-6)


def test_a_tokenizer_saved_under_its_former_name_loads_and_is_saved_under_todays(tmp_path):
    StateEmbeddingTokenizer(["A", "B"], fill="none").save_pretrained(tmp_path)
    settings = tmp_path / "tokenizer_config.json"
    text = settings.read_text(encoding="utf-8")
    settings.write_text(text.replace("StateEmbeddingTokenizer", "CellSentenceTokenizer"), encoding="utf-8")
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert type(loaded) is StateEmbeddingTokenizer
    assert loaded.genes == ["A", "B"]
    assert loaded.fill == "none"
    loaded.save_pretrained(tmp_path / "again")
    assert "CellSentenceTokenizer" not in (tmp_path / "again" / "tokenizer_config.json").read_text(encoding="utf-8")


# Perturbed cells


PERTURBED = ["A", "B", "C", "D", "E", "F"]


def sentence_of(tokenizer, encoding, cell=0) -> dict[str, float]:
    """Gene -> scalar, of the genes that the cell expresses."""
    length = int(encoding["attention_mask"][cell].sum())
    names = tokenizer.convert_ids_to_tokens(encoding["input_ids"][cell, :length].tolist())
    values = encoding["expression"][cell, :length].tolist()
    assert names[0] == "[CLS]"
    assert values[1:] == sorted(values[1:], reverse=True)
    return {name: value for name, value in zip(names[1:], values[1:], strict=True) if value > 0}


@pytest.mark.parametrize("fill", ["none", "seeded"])
@pytest.mark.parametrize(
    ("change", "level", "gene", "changed"),
    [
        ("delete", None, "B", [5, 0, 2, 9, 0, 1]),
        ("overexpress", None, "C", [5, 3, 9, 9, 0, 1]),
        ("overexpress", None, "E", [5, 3, 2, 9, 9, 1]),
        ("overexpress", None, "D", [5, 3, 2, 9, 0, 1]),
        ("inhibit", None, "D", [5, 3, 2, 1, 0, 1]),
        ("inhibit", None, "F", [5, 3, 2, 9, 0, 1]),
        ("activate", None, "F", [5, 3, 2, 9, 0, 5]),
        ("activate", None, "E", [5, 3, 2, 9, 5, 1]),
        ("level", 0.5, "D", [5, 3, 2, 2, 0, 1]),
        ("level", 0.0, "A", [1, 3, 2, 9, 0, 1]),
    ],
)
def test_a_perturbed_sentence_is_that_of_changed_counts(fill, change, level, gene, changed):
    """What the model reads of a cell is the same as if its counts had been other ones."""
    tokenizer = StateEmbeddingTokenizer(PERTURBED, model_max_length=7, fill=fill)
    counts = np.array([[5, 3, 2, 9, 0, 1]])
    before = tokenizer.encode_cells(counts, PERTURBED)
    after = tokenizer.set_genes(before, [PERTURBED.index(gene)], change, level=level)
    wanted = tokenizer.encode_cells(np.array([changed]), PERTURBED, max_length=7)
    assert sentence_of(tokenizer, after) == pytest.approx(sentence_of(tokenizer, wanted), rel=1e-5)


def test_perturbed_sentences_keep_their_length_and_their_padding():
    tokenizer = StateEmbeddingTokenizer(PERTURBED, model_max_length=4, fill="none")
    encoding = tokenizer.encode_cells(np.array([[5, 3, 2, 9, 0, 1], [0, 0, 0, 0, 2, 1]]), PERTURBED)
    after = tokenizer.set_genes(encoding, [5], "overexpress")
    assert tokenizer.decode_cells(after["input_ids"]) == [["F", "D", "A"], ["F", "E"]]
    assert after["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]
    assert after["expression"][1, 3] == 0
    # A sentence says nothing of genes that it is too short for.
    assert tokenizer.gene_levels(encoding)[0, 1:].tolist() == [1, 0.5, 0]
    with pytest.raises(ValueError, match="1 of 2 cells have no gene left"):
        tokenizer.set_genes(encoding, [4, 5], "delete")


def test_genes_that_fill_a_sentence_are_not_expressed():
    tokenizer = StateEmbeddingTokenizer(PERTURBED, model_max_length=7, fill="seeded")
    encoding = tokenizer.encode_cells(np.array([[5, 0, 0, 9, 0, 1]]), PERTURBED)
    assert tokenizer.expressed_tokens(encoding).tolist() == [[False, True, True, True, False, False, False]]
