"""Ranks are those of the formula for whatever cells there are, and perturbations change them as they should."""

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st
from tests.geneformer_models import lists

from state_hf.tokenization.geneformer import V2_SPECIAL_IDS, GeneformerTokenizer
from state_hf.tokenization.rank_values import rank_genes

GENES = ["ENSG00000000001", "ENSG00000000002", "ENSG00000000003", "ENSG00000000004", "ENSG00000000005"]
MEDIANS = dict(zip(GENES, [1.0, 2.0, 0.5, 1.0, 4.0], strict=True))


@pytest.fixture(params=["V1", "V2"])
def tokenizer(request):
    special = {} if request.param == "V1" else {"special_ids": V2_SPECIAL_IDS}
    return GeneformerTokenizer(GENES, MEDIANS, model_max_length=6, **special)


def genes_of(tokenizer, encoding) -> list[list[int]]:
    """Numbers of genes by rank, after a check of what surrounds them."""
    before, after = ([2], [3]) if "<cls>" in tokenizer.special_ids else ([], [])
    result = []
    for cell in lists(encoding):
        assert cell[: len(before)] == before
        assert cell[len(cell) - len(after) :] == after
        result.append([token - tokenizer.first_gene_id for token in cell[len(before) : len(cell) - len(after)]])
    return result


def by_the_formula(cells: np.ndarray, medians: np.ndarray, most: int) -> list[list[int]]:
    ranked = []
    for cell in cells:
        known = [gene for gene in np.flatnonzero(cell) if medians[gene] > 0]
        ranked.append(sorted(known, key=lambda gene: (-float(cell[gene]) / medians[gene], gene))[:most])
    return ranked


def ranks(cells, medians, *, most, columns=None):
    columns = np.arange(len(medians)) if columns is None else columns
    ids = np.empty((len(cells), most), np.int64)
    options = {"is_counts": True, "first_id": 0, "pad_id": -1, "ids": ids}
    counts = rank_genes(sp.csr_array(cells.astype(np.float32)), columns, medians, **options)
    assert (ids[np.arange(most) >= counts[:, None]] == -1).all()
    return [row[:number].tolist() for row, number in zip(ids, counts, strict=True)]


@given(seed=st.integers(0, 2**32 - 1), most=st.integers(1, 12), kind=st.sampled_from(["any", "ties", "near", "none"]))
def test_ranks_are_those_of_the_formula(seed, most, kind):
    rng = np.random.default_rng(seed)
    cells = rng.poisson(1.5, (40, 9)) if kind != "near" else rng.integers(1, 3, (40, 9))
    medians = {
        "any": rng.lognormal(size=9),
        "ties": rng.integers(1, 3, 9).astype(float),
        # Further apart than float64's steps, but less than what the sort keys can tell apart.
        "near": 1 + rng.permutation(9) * 2.0**-45,
        "none": np.where(rng.random(9) < 0.3, np.nan, rng.lognormal(size=9)),
    }[kind]
    assert ranks(cells, medians, most=most) == by_the_formula(cells, medians, most)


@pytest.mark.parametrize("width", [300, 4096, 9000, 70_000])
@pytest.mark.parametrize("kind", ["apart", "few ratios", "very large and small"])
def test_ranks_of_any_number_of_genes_are_those_of_an_exact_sort(width, kind):
    """Whatever a key's bits leave to the ratio: ratios that they do not tell apart are ordered by themselves."""
    rng = np.random.default_rng(width)
    medians = {
        "apart": rng.lognormal(size=width),
        "few ratios": rng.choice([1.0, 2.0, 4.0], width),
        "very large and small": 2.0 ** rng.integers(-60, 60, width),
    }[kind]
    cells = rng.poisson(0.7, (3, width)).astype(np.float32)
    columns = rng.permutation(width)
    most = width // 3
    found = ranks(cells[:, columns], medians, most=most, columns=columns)
    for ids, cell in zip(found, cells, strict=True):
        expressed = np.flatnonzero(cell)
        order = np.lexsort([expressed, -(cell[expressed].astype(np.float64) / medians[expressed])])
        assert ids == expressed[order][:most].tolist()


def test_the_order_of_columns_does_not_matter():
    rng = np.random.default_rng(0)
    cells, medians, order = rng.poisson(1.0, (50, 30)), rng.integers(1, 4, 30).astype(float), rng.permutation(30)
    assert ranks(cells[:, order], medians, most=30, columns=order) == ranks(cells, medians, most=30)


def test_whole_cells_by_hand(tokenizer):
    # Over the medians: 3, 0, 4, 3, 1; the first and fourth are tied.
    counts = np.array([[3, 0, 2, 3, 4]])
    assert genes_of(tokenizer, tokenizer.encode_cells(counts, GENES)) == [[2, 0, 3, 4]]
    logs = np.log1p(counts / counts.sum() * 1e4)
    assert genes_of(tokenizer, tokenizer.encode_cells(logs, GENES, input_type="log1p")) == [[2, 0, 3, 4]]
    assert tokenizer.decode_cells(tokenizer.encode_cells(counts, GENES)["input_ids"]) == [
        [GENES[2], GENES[0], GENES[3], GENES[4]]
    ]


def test_text_is_framed_like_a_cell(tokenizer):
    framed = tokenizer(f"{GENES[2]} {GENES[0]}.7")["input_ids"]
    assert framed == lists(tokenizer.encode_cells(np.array([[1, 0, 9, 0, 0]]), GENES))[0]


def test_cells_around_change_nothing(tokenizer):
    cells = np.random.default_rng(1).poisson(1.0, (70, 5)) + np.eye(5, dtype=int)[0]
    alone = [lists(tokenizer.encode_cells(cell[None], GENES))[0] for cell in cells]
    assert lists(tokenizer.encode_cells(cells, GENES)) == alone


def test_a_gene_without_a_median_is_never_read():
    medians = {gene: median for gene, median in MEDIANS.items() if gene != GENES[2]}
    tokenizer = GeneformerTokenizer(GENES, medians)
    assert genes_of(tokenizer, tokenizer.encode_cells(np.array([[1, 1, 9, 0, 0]]), GENES)) == [[0, 1]]


def test_cells_without_a_gene_are_named(tokenizer):
    counts = np.array([[1, 0, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]])
    with pytest.raises(ValueError, match=r"2 of 3 cells express no gene of the vocabulary.* the first is cell 101"):
        tokenizer.encode_cells(counts, GENES, first_cell=100)


def test_no_room_for_a_gene_is_an_error():
    tokenizer = GeneformerTokenizer(GENES, MEDIANS, special_ids=V2_SPECIAL_IDS)
    with pytest.raises(ValueError, match="max_length is 2, which leaves no room for a gene"):
        tokenizer.encode_cells(np.ones((1, 5)), GENES, max_length=2)


@pytest.mark.parametrize("kind", ["counts", "log1p"])
def test_columns_of_one_gene_are_added_where_the_tokenizer_says_so(kind):
    counts = np.array([[2, 5, 2, 0], [0, 0, 3, 1]])
    names = [GENES[0], GENES[3], f"{GENES[0]}.2", GENES[1]]
    cells = counts if kind == "counts" else np.log1p(counts)
    summing = GeneformerTokenizer(GENES, dict.fromkeys(GENES, 1.0), sum_columns=True)
    first = GeneformerTokenizer(GENES, dict.fromkeys(GENES, 1.0), sum_columns=False)
    # 4 against 5, then against 4.5: only together they are more.
    assert genes_of(summing, summing.encode_cells(cells, names, input_type=kind)) == [[3, 0], [0, 1]]
    counts[0, 1] = 3
    cells = counts if kind == "counts" else np.log1p(counts)
    assert genes_of(summing, summing.encode_cells(cells, names, input_type=kind)) == [[0, 3], [0, 1]]
    assert genes_of(first, first.encode_cells(cells, names, input_type=kind)) == [[3, 0], [1]]
    report = summing.gene_index.report(names, column="index")
    assert report.summed == {f"{GENES[0]}.2": GENES[0]}
    assert "another column of a gene, added to it: ENSG00000000001.2 (is ENSG00000000001)" in str(report)


# Perturbed cells


def perturbed(tokenizer, rows, change, **options):
    encoding = tokenizer.encode_cells(np.array([[3, 0, 2, 3, 4], [0, 0, 0, 5, 1]]), GENES)
    assert genes_of(tokenizer, encoding) == [[2, 0, 3, 4], [3, 4]]
    return genes_of(tokenizer, tokenizer.set_genes(encoding, rows, change, **options))


def test_deleted_genes_leave_and_the_others_move_up(tokenizer):
    assert perturbed(tokenizer, [0], "delete") == [[2, 3, 4], [3, 4]]
    assert perturbed(tokenizer, [4, 0], "delete") == [[2, 3], [3]]
    assert perturbed(tokenizer, [[2, 0], [4, -1]], "delete") == [[3, 4], [3]]


def test_overexpressed_genes_come_first_in_the_order_given(tokenizer):
    assert perturbed(tokenizer, [3], "overexpress") == [[3, 2, 0, 4], [3, 4]]
    assert perturbed(tokenizer, [1, 4], "overexpress", max_length=9) == [[1, 4, 2, 0, 3], [1, 4, 3]]
    assert perturbed(tokenizer, [[4], [-1]], "overexpress") == [[4, 2, 0, 3], [3, 4]]


def test_what_exceeds_the_length_goes_at_the_end(tokenizer):
    frame = 2 * ("<cls>" in tokenizer.special_ids)
    assert perturbed(tokenizer, [1], "overexpress", max_length=3 + frame) == [[1, 2, 0], [1, 3, 4]]


def test_genes_go_to_the_rank_of_a_level(tokenizer):
    assert perturbed(tokenizer, [2], "level", level=0.0) == [[0, 3, 4, 2], [3, 4, 2]]
    assert perturbed(tokenizer, [4], "level", level=1.0) == [[4, 2, 0, 3], [4, 3]]
    # Of three others, a third is one.
    assert perturbed(tokenizer, [2], "level", level=1 / 3) == [[0, 3, 2, 4], [3, 2, 4]]
    assert perturbed(tokenizer, [4, 2], "level", level=0.5) == [[0, 4, 2, 3], [4, 2, 3]]


def test_inhibited_genes_never_rise_and_activated_ones_never_fall(tokenizer):
    assert perturbed(tokenizer, [2], "inhibit") == [[0, 3, 2, 4], [3, 4]]
    assert perturbed(tokenizer, [4], "inhibit") == [[2, 0, 3, 4], [3, 4]]
    assert perturbed(tokenizer, [4], "activate") == [[2, 4, 0, 3], [4, 3]]
    assert perturbed(tokenizer, [2], "activate") == [[2, 0, 3, 4], [2, 3, 4]]


def test_levels_are_shares_of_the_other_genes_below(tokenizer):
    encoding = tokenizer.encode_cells(np.array([[3, 0, 2, 3, 4], [0, 0, 0, 5, 0]]), GENES)
    rows, levels = tokenizer.gene_rows(encoding), tokenizer.gene_levels(encoding)
    assert levels[0][rows[0] >= 0].tolist() == pytest.approx([1, 2 / 3, 1 / 3, 0])
    assert levels[1][rows[1] >= 0].tolist() == [0]
    assert levels[rows < 0].isnan().all()


def test_wrong_perturbations_are_refused(tokenizer):
    for rows, change, words in (
        ([0], "double", "change is 'double'; it has to be 'delete' or 'overexpress' or 'inhibit' or"),
        ([0], "level", "level is None for the change 'level'"),
        ([5], "delete", "there are 5 genes"),
        ([-2], "delete", "there are 5 genes"),
        ([1, 1], "delete", "names a gene twice"),
        ([3, 4], "delete", "1 of 2 cells have no gene left"),
    ):
        with pytest.raises(ValueError, match=words):
            perturbed(tokenizer, rows, change)


# Files


def test_a_saved_tokenizer_is_the_same(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    again = GeneformerTokenizer.from_pretrained(tmp_path)
    np.testing.assert_array_equal(again.medians, tokenizer.medians)
    for name in ("special_ids", "cell_pooling", "sum_columns", "model_max_length", "genes"):
        assert getattr(again, name) == getattr(tokenizer, name)
    again.save_pretrained(tmp_path / "again")
    for name in ("genes.txt", "gene_medians.tsv", "state_hf_classes.py"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / name).read_bytes()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("gene\tvalue\n", "the first line has to be gene and median"),
        ("gene\tmedian\nENSG00000000001\tmany\n", "line 2: .* is not a gene and a number"),
        ("gene\tmedian\nENSG00000000001 3\n", "line 2: .* is not a gene and a number"),
        ("gene\tmedian\nENSG00000000001\t3\nENSG00000000001\t3\n", "line 3: .* names a gene a second time"),
        ("gene\tmedian\nENSG00000000001\t0\n", r"the median of ENSG00000000001 is 0\.0; it has to be above 0"),
        ("gene\tmedian\nENSG00000000001\tinf\n", "the median of ENSG00000000001 is inf"),
        ("gene\tmedian\nENSG00000000009\t1\n", "medians of 1 genes that are not in the vocabulary"),
    ],
)
def test_broken_medians_are_named(text, words, tmp_path):
    (tmp_path / "gene_medians.tsv").write_text(text)
    with pytest.raises(ValueError, match=words):
        GeneformerTokenizer(GENES, tmp_path / "gene_medians.tsv")


def test_missing_medians_are_named(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "gene_medians.tsv").unlink()
    with pytest.raises(ValueError, match=r"has no gene_medians.tsv, which says by what a gene is divided"):
        GeneformerTokenizer.from_pretrained(tmp_path)


def test_special_ids_surround_the_genes():
    around = GeneformerTokenizer(GENES, MEDIANS, special_ids={"<pad>": 0, "<mask>": 1, "<cls>": 7, "<eos>": 8})
    assert around.first_gene_id == 2
    assert around("ENSG00000000001")["input_ids"] == [7, 2, 8]
    with pytest.raises(ValueError, match="do not surround the ids of 5 genes"):
        GeneformerTokenizer(GENES, MEDIANS, special_ids={"<pad>": 0, "<mask>": 3})
