"""New files have the permissions that the umask leaves; what may not be read is called that."""

import os
import tempfile
from pathlib import Path

import pytest

from state_hf.configuration.file_permissions import check_readable, follow_umask, weights_follow_umask
from state_hf.configuration.model_folders import loading_from
from tests.file_modes import mode, unreadable


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_a_file_of_its_owner_alone_follows_the_umask(tmp_path, umask):
    descriptor, name = tempfile.mkstemp(suffix=".safetensors", dir=tmp_path)
    os.close(descriptor)
    assert mode(Path(name)) == 0o600
    before = os.umask(umask)
    try:
        weights_follow_umask(tmp_path)
        follow_umask(name)
    finally:
        os.umask(before)
    assert mode(Path(name)) == 0o666 & ~umask
    assert [path.name for path in tmp_path.iterdir()] == [Path(name).name]


def test_what_may_be_read_or_is_not_there_is_no_error(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("nothing")
    for path in (tmp_path, tmp_path / "file", tmp_path / "missing", tmp_path / "link", "owner/model"):
        check_readable(path)


@pytest.mark.parametrize("what", ["file", "folder", "member", "above"])
def test_what_may_not_be_read_is_named(what):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "outer" / "inner").mkdir(parents=True)
        (folder / "outer" / "inner" / "file").write_text("text")
        inner, file = "outer/inner", "outer/inner/file"
        closed = {"file": file, "folder": inner, "member": file, "above": "outer"}[what]
        asked = folder / (inner if what in ("folder", "member") else file)
        with unreadable(folder / closed):
            with pytest.raises(PermissionError, match=f"Permission denied: '{folder}"):
                check_readable(asked)
            with pytest.raises(PermissionError, match=f"Permission denied: '{folder}"), loading_from(asked, look=False):
                raise FileNotFoundError(2, "No such file or directory", str(asked))
