"""What labels of perturbations mean: their order, the control in them, and names with a "+"."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from state_hf.configuration.perturbation_labels import SEPARATOR, Perturbation, PerturbationNames, member_names


def meaning(label, control="ctrl"):
    return Perturbation.of(label, control=control).members


@pytest.mark.parametrize(
    ("label", "members"),
    [
        ("A", ("A",)),
        ("A+B", ("A", "B")),
        ("B+A", ("A", "B")),
        ("B + A", ("A", "B")),
        ("A+ctrl", ("A",)),
        ("ctrl+A", ("A",)),
        ("ctrl", ()),
        ("ctrl+ctrl", ()),
        ("A+A", ("A",)),
        ("B+ctrl+A+B", ("A", "B")),
        ("HLA-A+", ("HLA-A+",)),
        ("HLA-A+ctrl", ("HLA-A",)),
        ("HLA-A++ctrl", ("HLA-A+",)),
        ("HLA-A++IFNG", ("HLA-A+", "IFNG")),
        ("IFNG+HLA-A+", ("HLA-A+", "IFNG")),
        ("Na++K+", ("K+", "Na+")),
        ("+", ("+",)),
        ("+A", ("+A",)),
        (" A", (" A",)),
    ],
)
def test_what_a_label_means(label, members):
    assert meaning(label) == members


def test_controls_of_two_names():
    assert meaning("NT+NT", "NT+NT") == ()
    assert meaning("A+NT", "NT+NT") == ("A",)
    assert meaning("vehicle+DMSO", "DMSO+vehicle") == ()
    assert meaning("A+DMSO", "DMSO+vehicle") == ("A", "DMSO")
    assert meaning("A+ctrl", None) == ("A", "ctrl")


# Names that may end in a "+", as cell surface markers do.
name = st.from_regex(r"[A-Za-z0-9(]([A-Za-z0-9 _./-]{0,5}[A-Za-z0-9)])?\+?", fullmatch=True)


@given(st.lists(name, min_size=1, max_size=4), st.randoms())
def test_order_and_controls_do_not_matter(names, random):
    control = "the control"
    shuffled = [*names, *[control] * random.randint(0, 2), *random.choices(names, k=random.randint(0, 2))]
    random.shuffle(shuffled)
    assert meaning(SEPARATOR.join(shuffled), control) == meaning(SEPARATOR.join(names), control)
    assert meaning(SEPARATOR.join(names), control) == tuple(sorted(set(names)))


@given(st.text(alphabet="AB+ c", max_size=12), st.sampled_from(["A", "c", "A+B", "c+c", None]))
def test_the_meaning_of_a_meaning_is_the_meaning(label, control):
    one = Perturbation.of(label, control=control)
    assert one.without(control) == one
    if not one.is_control and label.strip(" +") == label:
        assert Perturbation.of(str(one), control=control) == one


@given(st.text(alphabet="AB+ ", min_size=1, max_size=12))
def test_no_letter_of_a_label_is_lost(label):
    kept = "".join(member_names(label))
    for letter in "AB":
        assert kept.count(letter) == label.count(letter)


KNOWN = PerturbationNames(["ctrl", "A", "B", "A+B", "CD3+ T", "HLA-A+", "IFNG", "G+ctrl", "2"], control="ctrl")


@pytest.mark.parametrize(
    ("label", "known"),
    [
        ("A", "A"),
        ("B+A", "A+B"),
        ("A+ctrl+B", "A+B"),
        ("ctrl+A", "A"),
        ("G", "G+ctrl"),
        ("CD3+ T", "CD3+ T"),
        ("ctrl+CD3+ T", "CD3+ T"),
        ("HLA-A+", "HLA-A+"),
        ("HLA-A", None),
        ("C", None),
        ("ctrl", "ctrl"),
        ("ctrl+ctrl", "ctrl"),
        (2.0, "2"),
    ],
)
def test_known_names_are_found_whatever_the_spelling(label, known):
    assert KNOWN.find(label) == known


@pytest.mark.parametrize(
    ("label", "members"),
    [
        ("A+B", ["A+B"]),
        ("IFNG+A", ["A", "IFNG"]),
        ("IFNG+G", ["G+ctrl", "IFNG"]),
        ("HLA-A++IFNG", ["HLA-A+", "IFNG"]),
        ("CD3+ T+IFNG", ["CD3+ T", "IFNG"]),
        ("IFNG+CD3+ T", ["IFNG", "CD3+ T"]),
        ("A+B+IFNG", ["A", "B", "IFNG"]),
        ("A+C", None),
        ("C", None),
    ],
)
def test_members_add_up(label, members):
    assert KNOWN.members(label) == members


def test_the_control_may_have_another_name_where_the_label_comes_from():
    assert KNOWN.find("A+NT", control="NT") == "A"
    assert KNOWN.find("NT", control="NT") == "ctrl"
    assert KNOWN.members("IFNG+NT+A", control="NT") == ["A", "IFNG"]
    assert KNOWN.find("A+NT") is None
    # A control by that name is the control, whatever the name is elsewhere.
    assert KNOWN.find("A", control="A") == "ctrl"


def test_what_is_unknown_of_a_label():
    assert KNOWN.unknown_members("A+C") == ["C"]
    assert KNOWN.unknown_members("C+D") == ["C+D"]
    assert KNOWN.unknown_members("C") == KNOWN.unknown_members("C+ctrl") == ["C"]
    assert KNOWN.unknown_members("B+A") == []


def test_names_of_one_meaning_are_all_told():
    names = PerturbationNames(["A+B", "B+A", "C"], control=None)
    assert names.spellings("B+A") == ["A+B", "B+A"]
    assert names.find("B+A") == "B+A"
    assert names.spellings("D") == []
