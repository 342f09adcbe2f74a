import errno

import pytest

from state_hf.data.whole_files import written_whole


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    return path


def write_and_fail(path, error):
    with written_whole(path) as temporary:
        temporary.write_text("new")
        raise error


def test_a_file_appears_when_it_is_complete(path):
    with written_whole(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [KeyError("k"), KeyboardInterrupt(), OSError(errno.EIO, "Input/output error")])
def test_an_error_leaves_what_was_there(path, error):
    with pytest.raises(type(error)) as raised:
        write_and_fail(path, error)
    assert raised.value is error
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError("Can't write data (file write failed: errno = 28, error message = 'No space left on device')"),
        RuntimeError("Can't decrement id ref count (unable to extend file properly, errno = 27, ...)"),
    ],
)
def test_a_full_disk_is_explained(path, error):
    with pytest.raises(OSError, match=r"The disk is full, so the file was not written.*file\.txt"):
        write_and_fail(path, error)
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]
