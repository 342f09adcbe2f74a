import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from state_hf.metrics.score_audit import AUDIT_COLUMNS, VARIANCE_FACTOR, audit_table
from state_hf.reporting.evaluation_report import evaluation_page, write_evaluation_report
from state_hf.reporting.markup import element, number
from state_hf.reporting.page import drawn


class Page(HTMLParser):
    """Collects the tags, the attributes and the visible text of a page."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.attributes, self.text = [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]

    def handle_data(self, data):
        self.text.append(data)


def test_page_shows_every_part(make_result):
    text = " ".join(Page(evaluation_page(make_result())).text)
    for part in (
        "Predicted against measured cells",
        "0.453",
        "Scaled scores",
        "Perturbations",
        "Effects",
        "Overlap of the strongest genes",
        "Genes called",
        "Volcano plots",
        "Can the perturbations be told apart?",
        "Diagnostics",
        "Settings",
        "bulk target sum",
    ):
        assert part in text
    assert not re.search(r"\bnan\b", text)


def test_the_audit_is_shown_where_there_is_one(make_result):
    result = make_result()
    assert "Audit" not in " ".join(Page(evaluation_page(result)).text)
    metrics = [metric.name for metric in result.profile.metrics]
    values = {name: dict.fromkeys(metrics, 0.5) for name in AUDIT_COLUMNS}
    values["inflated_variance"][metrics[0]] = 0.9
    shown = " ".join(Page(evaluation_page(replace(result, audit=audit_table(values, result.profile)))).text)
    assert "Audit" in shown
    assert f"inflated variance (deviations from the mean x {VARIANCE_FACTOR:g}) makes" in shown
    assert f"{metrics[0]} 0.5 -> 0.9 (control copy 0.5)" in shown


@pytest.mark.parametrize(
    "attack", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "a&b<\x00\x1b]", "</style>"]
)
def test_labels_stay_text(make_result, attack):
    result = make_result([attack, "KLF1", "MYC"], [attack, *[f"g{i}" for i in range(30)]])
    result.problems[attack] = {attack: attack}
    html = evaluation_page(result)
    page = Page(html)
    assert "script" not in page.tags
    assert "img" not in page.tags
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert html.count("</style>") == 1
    visible = re.sub(r"[\x00\x1b]", "\ufffd", attack)
    assert any(visible in text for text in page.text)


def test_page_needs_nothing_from_outside(make_result):
    page = Page(evaluation_page(make_result()))
    addresses = [value for _, name, value in page.attributes if name in ("href", "src", "xlink:href")]
    assert addresses
    assert all(value.startswith("data:image/png;base64,") for value in addresses)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert ("meta", "content", "width=device-width, initial-scale=1") in page.attributes


def test_every_plot_is_described(make_result):
    html = evaluation_page(make_result())
    assert html.count("<svg") == html.count('role="img"') == len(re.findall(r"<svg[^>]*><title>[^<]+</title>", html))


def test_same_result_same_page(make_result):
    assert evaluation_page(make_result()) == evaluation_page(make_result())


def test_page_without_scores(make_result):
    text = " ".join(Page(evaluation_page(make_result(scored=False))).text)
    assert "overall score" not in text
    assert "Metrics" in text


def test_page_of_contexts(make_result):
    text = " ".join(Page(evaluation_page(make_result(contexts=["T cell", "B <cell>"]))).text)
    assert "T cell: all plots" in text
    assert "B <cell>: all plots" in text


@pytest.mark.parametrize("perturbations", [["A"], ["A", "B"], [f"P{i}" for i in range(60)]])
def test_few_and_many_perturbations(make_result, perturbations):
    text = " ".join(Page(evaluation_page(make_result(perturbations))).text)
    assert ("30 more" in text) == (len(perturbations) == 60)


def test_values_that_are_missing_or_infinite(make_result):
    result = make_result()
    result.per_perturbation.iloc[0] = np.nan
    result.scores.loc["mae"] = np.nan
    result.de_tables[0].log2_fold_change[0, 0] = np.inf
    result.de_tables[1].fdr[:] = 1.0
    result.de_tables[1].fdr[1, 3] = np.nan
    assert "nan" not in " ".join(Page(evaluation_page(result)).text).lower().split()


def test_report_is_written_whole(make_result, tmp_path):
    path = write_evaluation_report(make_result(), tmp_path / "new" / "report.html")
    assert path.read_text(encoding="utf-8").endswith("</html>\n")
    assert [entry.name for entry in path.parent.iterdir()] == ["report.html"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.123456, "0.123"),
        (12.0, "12"),
        (18080.0, "18\u202f080"),
        (-1234.5, "−1\u202f234"),
        (1e-9, "1e−9"),
        (float("nan"), "–"),
        (float("-inf"), "−∞"),
    ],
)
def test_numbers_for_reading(value, text):
    assert number(value) == text


def test_text_after_an_element_is_kept():
    tree = element("p", "a", element("b", "<"), "c", None, class_="x")
    assert drawn(tree) == '<p class="x">a<b>&lt;</b>c</p>'
