"""The line of expression over ranks is the original's."""

import json

import numpy as np
import pytest
import scipy.sparse as sp
from tests.cell2sentence_models import COUNTS, TEXT, expected, processor

from state_hf import RankExpressionModel


def falling(levels):
    return [np.sort(row[row > 0])[::-1] for row in np.asarray(levels, np.float64)]


def test_the_line_is_the_originals():
    stored = TEXT["fit"]
    line = RankExpressionModel.fit_levels(falling(expected("expression")["normalized_log10"]))
    found = [line.slope, line.intercept, line.r_squared, line.pearson, line.spearman]
    wanted = [
        stored[name] for name in ("slope", "intercept", "r_squared", "pearson_r_statistic", "spearman_r_statistic")
    ]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-9)
    # The original's levels are float32.
    from_counts = RankExpressionModel.fit(sp.csr_array(COUNTS))
    np.testing.assert_allclose([from_counts.slope, from_counts.intercept], wanted[:2], atol=1e-7)
    assert from_counts.target_sum == np.median(COUNTS.sum(axis=1))


def test_an_exact_line():
    for points in ("pairs", "rank_means"):
        line = RankExpressionModel.fit_levels(falling(expected("fit")["exact_line_input"]), points=points)
        np.testing.assert_allclose([line.slope, line.intercept], [-0.7, 1.9], atol=1e-9)
        np.testing.assert_allclose(line.levels(26), expected("fit")["exact_line_input"][0], atol=1e-9)
        assert line.r_squared == pytest.approx(1)


def test_means_of_ranks_weigh_ranks_and_not_cells():
    levels = [np.array([3.0, 1.0]), np.array([3.0, 1.0]), np.array([3.0, 1.0, 0.8])]
    means = RankExpressionModel.fit_levels(levels, points="rank_means")
    t, y = np.log10([1, 2, 3]), [3.0, 1.0, 0.8]
    np.testing.assert_allclose([means.slope, means.intercept], np.polyfit(t, y, 1))
    assert RankExpressionModel.fit_levels(levels).slope != pytest.approx(means.slope)


def test_expression_of_sentences_is_the_originals():
    made = processor(num_genes=100)
    line = RankExpressionModel(TEXT["fit"]["slope"], TEXT["fit"]["intercept"])
    rows = [made.parse_genes(text).rows for text in TEXT["sentences_seed42"]]
    found = line.expression(rows, len(made.genes))
    np.testing.assert_allclose(found.toarray(), expected("fit")["reconstructed"], atol=1e-6)
    for case in TEXT["post_process"]:
        found = line.expression([made.parse_genes(case["text"]).rows], len(made.genes)).toarray()[0]
        np.testing.assert_allclose(found, case["expression"], atol=1e-6)


def test_levels_are_never_negative():
    assert RankExpressionModel(-1.0, 0.5).levels(100).min() == 0


def test_a_draw_of_cells_is_seeded():
    cells = np.random.default_rng(0).poisson(2.0, (200, 30))
    drawn = [RankExpressionModel.fit(cells, max_cells=20, seed=seed) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert drawn[0].cells == 20


def test_saved_and_loaded(tmp_path):
    line = RankExpressionModel.fit(COUNTS)
    line.save(tmp_path / "line.json")
    assert RankExpressionModel.load(tmp_path / "line.json") == line
    (tmp_path / "line.json").write_text(json.dumps({"slope": 1}))
    with pytest.raises(ValueError, match=r"line\.json holds no line of expression over ranks"):
        RankExpressionModel.load(tmp_path / "line.json")


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        (np.zeros((3, 4)), "have not two ranks"),
        (np.eye(3), "have not two ranks"),
        (-np.ones((2, 2)), "negative or not finite"),
        (np.full((2, 2), np.nan), "negative or not finite"),
    ],
)
def test_cells_without_a_line(cells, said):
    with pytest.raises(ValueError, match=said):
        RankExpressionModel.fit(cells)
