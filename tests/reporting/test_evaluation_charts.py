import base64
import struct
import zlib
from xml.etree import ElementTree

import numpy as np
import pandas as pd

from state_hf.metrics.de_tables import DifferentialExpression
from state_hf.reporting.evaluation_charts import _block_means, overlap_curves, ranking
from state_hf.reporting.png_image import heat_image
from state_hf.reporting.svg_plot import Axis, Plot, bars


def pixels(url):
    data = base64.b64decode(url.removeprefix("data:image/png;base64,"))
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", data[16:24])
    length = struct.unpack(">I", data[33:37])[0]
    lines = np.frombuffer(zlib.decompress(data[41 : 41 + length]), np.uint8).reshape(height, 1 + 4 * width)
    return lines[:, 1:].reshape(height, width, 4)


def test_heat_image_is_a_png_of_the_values():
    image = pixels(heat_image(np.array([[0.0, 1.0, np.nan], [0.5, 2.0, -1.0]])))
    assert image.tolist() == [
        [[0, 34, 78, 255], [254, 232, 56, 255], [0, 34, 78, 0]],
        [[125, 124, 120, 255], [254, 232, 56, 255], [0, 34, 78, 255]],
    ]


def test_bars_start_at_zero():
    svg = bars("x", [("a", 2.0, "c"), ("b", -1.0, "c"), ("n", float("nan"), "c")], -1, 2)
    first, second = svg.findall("rect")
    zero = float(svg.find("line").get("x1"))
    assert float(first.get("x")) == zero
    np.testing.assert_allclose(float(second.get("x")) + float(second.get("width")), zero, atol=0.02)
    np.testing.assert_allclose(float(first.get("width")), 2 * float(second.get("width")), atol=0.02)


def test_axes_place_values():
    assert Axis(0, 10).place(2.5) == 0.25
    assert Axis(10, 0).place(2.5) == 0.75
    assert Axis(1, 100, log=True).place(10) == 0.5
    assert Axis(0, 1).place(7) == 1
    assert [tick for tick, _ in Axis(0, 1).marks()] == [0, 0.2, 0.4, 0.6, 0.8, 1]
    assert [name for _, name in Axis(1, 1000, log=True).marks()] == ["1", "10", "100", "1\u202f000"]


def test_higher_values_lie_higher():
    plot = Plot("x", Axis(0, 1), Axis(0, 1))
    assert plot.y(1.0) < plot.y(0.0)


def test_ranking_puts_the_best_first():
    values = pd.Series({"a": 0.1, "b": 0.9, "c": np.nan, "d": 0.5})
    for ascending, order in ((False, ["b", "d", "a"]), (True, ["a", "d", "b"])):
        svg = ranking(values, "pds", ascending=ascending)
        assert [text.text for text in svg.findall("text") if text.text in values.index] == order


def de(fold_changes, significant):
    shape = np.shape(fold_changes)
    return DifferentialExpression(
        perturbations=np.array(["p"], dtype=object),
        genes=np.array(list("abcde"), dtype=object),
        tested=np.arange(5),
        target_mean=np.ones(shape),
        reference_mean=np.ones(shape[1]),
        target_cells=np.array([3]),
        reference_cells=3,
        log2_fold_change=np.array(fold_changes, dtype=float),
        p_value=np.ones(shape),
        statistic=np.ones(shape),
        fdr=np.where(significant, 0.01, 0.5),
        significance=0.05,
    )


def test_overlap_curve_counts_the_shared_genes():
    # Strongest real genes: c, a, b. Strongest predicted: a, c, e (b is not called).
    real = de([[2, -1, 3, 0, 0]], [[1, 1, 1, 0, 0]])
    predicted = de([[-9, 8, 4, 0, 1]], [[1, 0, 1, 0, 1]])
    svg = overlap_curves(predicted, real)
    mean = next(line for line in svg.iter("polyline") if line.get("class") == "line prediction")
    heights = [float(point.split(",")[1]) for point in mean.get("points").split()]
    plot = Plot("x", Axis(1, 3, log=True), Axis(0, 1))
    np.testing.assert_allclose(heights, plot.y(np.array([0, 1, 2 / 3])), atol=0.06)


def test_no_curve_where_nothing_is_called():
    table = de([[1, 2, 3, 4, 5]], [[0, 0, 0, 0, 0]])
    assert overlap_curves(table, table) is None


def test_block_means():
    values = np.arange(15.0).reshape(3, 5)
    np.testing.assert_array_equal(_block_means(values, 3), [[3, 5, 6.5], [10.5, 12.5, 14]])
    assert _block_means(values, 5) is values


def test_plots_are_well_formed():
    svg = ranking(pd.Series({"<a>": 1.0}), "m", ascending=False)
    assert ElementTree.fromstring(ElementTree.tostring(svg)).tag == "svg"
