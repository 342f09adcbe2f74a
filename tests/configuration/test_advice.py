"""Advice is in the words of whoever asks, and only what they can do."""

import pytest

from state_hf.configuration.advice import Advised, in_options, refuse_existing, told

NO_CONTROLS = Advised("no control cells", "add some", "leave such cells out (without_controls='drop')")
NO_COUNTS = Advised("X holds no counts", "name the layer (layer=...)", "round them (round_counts=True)")


def test_python_is_told_all_ways_with_arguments():
    assert str(NO_COUNTS) == "X holds no counts; name the layer (layer=...), or round them (round_counts=True)"
    assert str(ValueError(NO_CONTROLS)) == (
        "no control cells; add some, or leave such cells out (without_controls='drop')"
    )
    assert str(Advised("nothing to do")) == "nothing to do"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"layer": "--layer", "round_counts": "--round"},
            "X holds no counts; name the layer (--layer), or round them (--round)",
        ),
        ({"layer": "--layer"}, "X holds no counts; name the layer (--layer)"),
        ({"seed": "--seed"}, "X holds no counts"),
    ],
)  # fmt: skip
def test_a_command_is_told_what_it_has_an_option_for(options, said):
    assert told(ValueError(NO_COUNTS), options) == said


def test_ways_without_an_argument_can_always_be_gone():
    assert told(ValueError(NO_CONTROLS), {}) == "no control cells; add some"


def test_advice_is_found_in_errors_that_wrap_others_and_in_lists():
    def wrapped():
        try:
            raise ValueError(NO_COUNTS)
        except ValueError as error:
            raise OSError(28, f"a.h5ad: {error}", "a.h5ad") from error

    with pytest.raises(OSError, match="name the layer") as caught:
        wrapped()
    assert told(caught.value, {"layer": "--layer"}) == (
        "[Errno 28] a.h5ad: X holds no counts; name the layer (--layer): 'a.h5ad'"
    )
    both = Advised(f"2 problems:\n  1. {NO_COUNTS}\n  2. {NO_CONTROLS}", inner=(NO_COUNTS, NO_CONTROLS))
    assert told(ValueError(both), {"round_counts": "--round"}) == (
        "2 problems:\n  1. X holds no counts; round them (--round)\n  2. no control cells; add some"
    )


def test_arguments_with_values_become_options():
    options = {"control": "--control", "emit": "--emit", "targets": "--targets", "cell_type_key": "--cell-type-key"}
    assert (
        in_options("(control='NT 1'), emit='counts', other='x'", options)
        == "(--control 'NT 1'), --emit counts, other='x'"
    )
    assert in_options("targets={label: gene}", options) == "--targets"
    # No option says None.
    assert told(ValueError(Advised("no such column", "take all (cell_type_key=None)")), options) == "no such column"


def test_outputs_that_exist_are_refused(tmp_path):
    refuse_existing(tmp_path / "new", overwrite=False)
    (tmp_path / "empty").mkdir()
    refuse_existing(tmp_path / "empty", overwrite=False)
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file"):
        refuse_existing(path, overwrite=True)
        with pytest.raises(FileExistsError, match="exists already; choose another name, or replace it"):
            refuse_existing(path, overwrite=False)
