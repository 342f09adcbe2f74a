import pytest

from state_hf.configuration.near_names import near_matches, near_names, nearest


@pytest.mark.parametrize(
    ("name", "known", "found"),
    [
        # What is equal but for an accident comes alone, whatever else is close in spelling.
        ("gata1", ["GATA2", "GATA1", "GATA3"], ["GATA1"]),
        ("HLA_DRA ", ["HLA-DRB", "HLA-DRA"], ["HLA-DRA"]),
        ("7.0", ["70", "7"], ["7"]),
        ("ENSG00000102145.12", ["ENSG00000102146", "ENSG00000102145"], ["ENSG00000102145"]),
        ("ENSG00000102145", ["ENSG00000102146.3", "ENSG00000102145.4"], ["ENSG00000102145.4"]),
        ("AAACCTGAGAAACCAT", ["AAACCTGAGAAACCAG-1", "AAACCTGAGAAACCAT-1"], ["AAACCTGAGAAACCAT-1"]),
        ("AAACCTGAGAAACCAT-1", ["AAACCTGAGAAACCAT-1-0"], ["AAACCTGAGAAACCAT-1-0"]),
        ("STAT1_1", ["STAT1", "STAT2"], ["STAT1"]),
        ("k562", ["K562_1", "K562_2"], ["K562_1", "K562_2"]),
        ("AARS1", ["AARS", "NUP107"], ["AARS"]),
        ("x", ["AARS"], []),
    ],
)
def test_equality_comes_before_likeness(name, known, found):
    assert near_names(name, known) == found


def test_names_of_two_lists_are_paired():
    assert near_matches(
        ["gata1", "ENSG00000102145.12", "HLA_DRA ", "XYZ"], ["GATA1", "ENSG00000102145", "HLA-DRA"]
    ) == {"gata1": "GATA1", "ENSG00000102145.12": "ENSG00000102145", "HLA_DRA ": "HLA-DRA"}
    # Two suffixes are two names.
    assert near_matches(["IL-2"], ["IL-6", "TNF"]) == {}


def test_a_hint_suggests_or_lists():
    assert nearest("AARS1", ["AARS", "NUP107"]) == "did you mean 'AARS'?"
    assert nearest("k562", ["K562_1", "K562_2"]) == "did you mean 'K562_1' or 'K562_2'?"
    assert nearest("x", ["AARS"]) == "known: 'AARS'"
    assert nearest("x", [str(number) for number in range(100, 120)]).endswith("... (20 in all)")
    assert nearest("x", []) == "known: none"
