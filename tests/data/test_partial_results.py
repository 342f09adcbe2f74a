"""Blocks of a result survive their process, and settings decide whether they may be used."""

import numpy as np
import pytest

from state_hf.data.partial_results import PartialResults, different_settings


def test_blocks_are_kept_in_order(tmp_path):
    partial = PartialResults.start(tmp_path / "out.partial", {"seed": 0}, num_rows=7, block_rows=3)
    rows = np.arange(14, dtype=np.float32).reshape(7, 2)
    assert partial.missing() == [0, 1, 2]
    for block in (2, 0):
        start, stop = partial.bounds(block)
        partial.write(block, rows[start:stop])
    again = PartialResults.resume(tmp_path / "out.partial", {"seed": 0})
    assert again.missing() == [1]
    assert again.bounds(2) == (6, 7)
    again.write(1, rows[3:6])
    assert [start for start, _ in again.blocks()] == [0, 3, 6]
    np.testing.assert_array_equal(np.concatenate([block for _, block in again.blocks()]), rows)
    again.delete()
    assert list(tmp_path.iterdir()) == []


def test_other_settings_are_refused_by_name(tmp_path):
    PartialResults.start(tmp_path / "out.partial", {"seed": 0, "fill": "none"}, num_rows=7, block_rows=3)
    with pytest.raises(ValueError, match="seed was 0 and is 1; fill was 'none' and is 'seeded'"):
        PartialResults.resume(tmp_path / "out.partial", {"seed": 1, "fill": "seeded"})


def test_foreign_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"has no settings\.json"):
        PartialResults.open(tmp_path)


def test_unfinished_write_is_no_block(tmp_path, monkeypatch):
    partial = PartialResults.start(tmp_path / "out.partial", {}, num_rows=2, block_rows=1)

    def fail(file, rows):
        file.write(b"half a block")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", fail)
    with pytest.raises(OSError, match="No space left"):
        partial.write(0, np.zeros((1, 2)))
    assert partial.missing() == [0, 1]


def test_a_header_that_numpy_would_guess_is_damaged(tmp_path):
    partial = PartialResults.start(tmp_path / "out.partial", {}, num_rows=1, block_rows=1)
    partial.write(0, np.zeros((1, 2), np.float32))
    (block,) = (tmp_path / "out.partial").glob("*.npy")
    block.write_bytes(block.read_bytes().replace(b"(1, 2), } ", b"(1L, 2), }"))
    with pytest.raises(ValueError, match="is damaged: delete it, and resume"):
        list(partial.blocks())


def test_settings_are_compared_as_they_are_stored():
    assert different_settings({"seed": np.int64(0), "more": "x"}, {"seed": 0}) == ""
