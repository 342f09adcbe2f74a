import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from state_hf.data.cells.item_ranges import HDF5Items, join_ranges

LAYOUTS = {
    "contiguous": {},
    "chunked": {"chunks": (7,)},
    "compressed": {"chunks": (7,), "compression": "gzip"},
    "growing": {"chunks": (64,), "maxshape": (None,)},
}
ROW_LAYOUTS = {
    "contiguous": {},
    "row_chunks": {"chunks": (3, 4)},
    "column_chunks": {"chunks": (3, 2)},
    "compressed": {"chunks": (3, 2), "compression": "gzip"},
}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("items") / "items.h5"
    with h5py.File(path, "w") as new:
        for name, layout in LAYOUTS.items():
            new.create_dataset(f"vector/{name}", data=np.arange(50, dtype=np.float32), **layout)
        for name, layout in ROW_LAYOUTS.items():
            new.create_dataset(f"matrix/{name}", data=np.arange(40, dtype=np.int64).reshape(10, 4), **layout)
        new.create_dataset("vector/big_endian", data=np.arange(50, dtype=">f4"), chunks=(7,))
        new.create_dataset("vector/never_written", shape=(50,), dtype=np.float32, chunks=(7,))
        new.create_dataset("vector/empty", shape=(0,), dtype=np.float32)
    with h5py.File(path) as opened:
        yield opened


def test_join_ranges_by_hand():
    starts, stops = np.array([0, 5, 9, 30]), np.array([4, 9, 12, 33])
    run_starts, run_stops, places = join_ranges(starts, stops, gap=1)
    assert run_starts.tolist() == [0, 30]
    assert run_stops.tolist() == [12, 33]
    assert places.tolist() == [0, 5, 9, 12]
    assert join_ranges(starts, stops, gap=0)[0].tolist() == [0, 5, 30]


ranges = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=8)


@pytest.mark.parametrize("name", [*LAYOUTS, "big_endian"])
@given(gaps_and_lengths=ranges)
@settings(max_examples=30)
def test_ranges_of_a_vector(file, name, gaps_and_lengths):
    starts, stops, place = [], [], 0
    for gap, length in gaps_and_lengths:
        if place + gap + length <= 50:
            starts.append(place + gap)
            stops.append(place + gap + length)
            place += gap + length
    read = HDF5Items(file["vector"][name]).read(np.array(starts, dtype=np.int64), np.array(stops, dtype=np.int64))
    expected = [value for start, stop in zip(starts, stops, strict=True) for value in range(start, stop)]
    assert read.tolist() == expected


@pytest.mark.parametrize("name", ROW_LAYOUTS)
def test_rows_of_a_matrix(file, name):
    read = HDF5Items(file["matrix"][name]).read(np.array([0, 4, 9]), np.array([1, 7, 10]))
    assert read.tolist() == file["matrix"][name][()][[0, 4, 5, 6, 9]].tolist()


def test_values_that_were_never_written_and_none_at_all(file):
    assert HDF5Items(file["vector/never_written"]).read(np.array([3]), np.array([9])).tolist() == [0] * 6
    nothing = np.empty(0, dtype=np.int64)
    assert HDF5Items(file["vector/empty"]).read(nothing, nothing).shape == (0,)


def test_a_file_that_is_cut_off(tmp_path):
    path = tmp_path / "cut.h5"
    with h5py.File(path, "w") as new:
        new.create_dataset("early", data=np.arange(10.0))
        new.create_dataset("values", data=np.arange(5000.0))
    with h5py.File(path) as opened:
        items = HDF5Items(opened["values"])
        with path.open("rb+") as raw:
            raw.truncate(path.stat().st_size - 800)
        with pytest.raises(OSError, match=r"cut\.h5 ends before /values does"):
            items.read(np.array([4990]), np.array([5000]))
