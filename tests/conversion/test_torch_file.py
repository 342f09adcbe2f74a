"""Pickles and PyTorch files as data: what is read, and what is refused without being run."""

import io
import os
import pickle
import subprocess
import zipfile
from collections import OrderedDict, defaultdict
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from state_hf.conversion import pickled_types
from state_hf.conversion.errors import CheckpointError, UnsafeCheckpointError
from state_hf.conversion.pickled_types import plain, resolve_references
from state_hf.conversion.torch_file import read_pickled


def written(path, content, protocol=2):
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=20,
)


@settings(max_examples=25, deadline=None)
@given(content=values, protocol=st.sampled_from([0, 1, 2, 4, 5]))
def test_plain_values_are_read_as_pickle_reads_them(content, protocol, tmp_path_factory):
    path = written(tmp_path_factory.mktemp("p") / "content.pkl", content, protocol)
    assert read_pickled(path) == content


def test_containers_arrays_and_paths(tmp_path):
    content = {
        "ordered": OrderedDict(a=1),
        "default": defaultdict(list, b=[2]),
        "set": {3},
        "scalar": np.int64(4),
        "label": np.str_("x"),
        "array": np.arange(6, dtype=np.float32).reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(4).reshape(2, 2)),
        "names": np.array(["a", "b"], dtype=object),
        "text": np.array(["cc", "d"]),
        "path": PurePosixPath("/a/b"),
        "complex": 1j,
    }
    expected = {
        "ordered": {"a": 1},
        "default": {"b": [2]},
        "set": [3],
        "scalar": 4,
        "label": "x",
        "array": [[0, 1, 2], [3, 4, 5]],
        "fortran": [[0, 1], [2, 3]],
        "names": ["a", "b"],
        "text": ["cc", "d"],
        "complex": 1j,
    }
    for protocol in (2, 4, 5):
        found = plain(read_pickled(written(tmp_path / "c.pkl", content, protocol)), "c")
        assert found.pop("path").replace("//", "/") == "/a/b"
        assert found == expected


@pytest.mark.parametrize("save", ["zip", "legacy", "pickle"])
def test_tensors(save, tmp_path):
    path = tmp_path / "t.pt"
    base = torch.arange(24.0).reshape(4, 6)
    content = {
        "whole": base,
        "part": base[1:3, ::2],
        "turned": base.t(),
        "number": torch.tensor(3),
        "empty": torch.empty(0, 5),
        "half": torch.ones(3, dtype=torch.bfloat16),
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }
    if save == "pickle":
        written(path, content)
    else:
        torch.save(content, path, _use_new_zipfile_serialization=save == "zip")
    found = read_pickled(path)
    for name, value in content.items():
        assert found[name].shape == tuple(value.shape)
        assert torch.equal(found[name].load(), value)
        assert found[name].dtype == value.dtype


class Call:
    """Pickles as a call."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def code_runs(path):
    """What unpickling would do here: make a file."""
    return f"open({str(path)!r}, 'w').close()"


def malicious(ran):
    """{kind: (object whose unpickling runs code, name that the refusal has to mention)}."""
    code = code_runs(ran)
    inner = pickle.dumps(Call(os.system, f"touch {ran}"))
    return {
        "os.system": (Call(os.system, f"touch {ran}"), f"{os.name}.system"),
        "builtins.eval": (Call(eval, code), "builtins.eval"),
        "builtins.exec": (Call(exec, code), "builtins.exec"),
        "subprocess": (Call(subprocess.call, ["touch", str(ran)]), "subprocess.call"),
        "getattr chain": (Call(getattr, Call(__import__, "os"), "system"), "builtins.__import__"),
        "in a dictionary": ({"state_dict": {"weight": Call(eval, code)}}, "builtins.eval"),
        "as a key": ({Call(eval, "'k'"): 1}, "builtins.eval"),
        "pickle in a pickle": (Call(pickle.loads, inner), "_pickle.loads"),
        "torch.load in a pickle": (Call(torch.load, "inner.pt"), "torch.serialization.load"),
        "attribute path": (Call(torch.serialization.os.system, f"touch {ran}"), "posix.system"),
        "a file": (Call(open, str(ran), "w"), "io.open"),
        "a class with __setstate__": (Call(type, "Evil", (), {}), "builtins.type"),
    }


KINDS = sorted(malicious(Path("x")))


@pytest.mark.parametrize("container", ["pickle", "protocol 0", "protocol 4", "zip", "legacy"])
@pytest.mark.parametrize("kind", KINDS)
def test_malicious_files_run_nothing(kind, container, tmp_path):
    ran, path = tmp_path / "ran", tmp_path / "evil.ckpt"
    content, name = malicious(ran)[kind]
    if container in ("zip", "legacy"):
        torch.save(content, path, _use_new_zipfile_serialization=container == "zip")
    else:
        written(path, content, int(container[-1]) if container[-1].isdigit() else 2)
    with pytest.raises(UnsafeCheckpointError) as caught:
        read_pickled(path)
    message = str(caught.value)
    assert str(path) in message
    assert name.split(".")[-1] in message
    assert not ran.exists()


def test_a_tensor_that_is_a_file_of_its_own(tmp_path):
    """`torch.storage._load_from_bytes` of a plain pickle is a whole file of torch.save within the pickle."""
    ran, inner = tmp_path / "ran", io.BytesIO()
    torch.save(Call(os.system, f"touch {ran}"), inner, _use_new_zipfile_serialization=False)
    evil = {"control": Call(torch.storage._load_from_bytes, inner.getvalue())}
    with pytest.raises(UnsafeCheckpointError, match=r"posix\.system"):
        read_pickled(written(tmp_path / "batch_onehot_map.pkl", evil))
    zipped = io.BytesIO()
    torch.save(torch.ones(1), zipped)
    evil = {"control": Call(torch.storage._load_from_bytes, zipped.getvalue())}
    with pytest.raises(UnsafeCheckpointError, match="a file of its own"):
        read_pickled(written(tmp_path / "batch_onehot_map.pkl", evil))
    assert not ran.exists()


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (b"(S'touch x'\nios\nsystem\n.", "INST"),
        (b"cos\nsystem\n(S'touch x'\ntR.", "os.system"),
        (b"\x80\x02\x82\x01.", "EXT1"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x01xR.", "os.system"),
        (b"(ctorch._utils\n_rebuild_tensor_v2\nctorch.nn\nModule\no.", "OBJ"),
    ],
)
def test_malicious_instructions(code, message, tmp_path):
    path = tmp_path / "evil.pkl"
    path.write_bytes(code)
    with pytest.raises(UnsafeCheckpointError, match=message):
        read_pickled(path)


def test_known_names_cannot_be_called_to_do_harm(tmp_path):
    """A class that is read past is never made, and a builder takes data alone."""
    for code in (
        b"ctorch.nn.modules.loss\nMSELoss\n)R.",  # a record, called
        b"ccollections\nOrderedDict\n(I5\ntR.",
        b"cbuiltins\nbytearray\n(I99999999999\ntR.",
        b"ctorch._utils\n_rebuild_tensor_v2\n(I1\nI2\n)R.",
        b"cnumpy\ndtype\n(S'O9999999999999999'\ntR.",
        b"K\x01K\x02b.",
        b"(lp0\ng0\na(dg0\ng0\ns.",
    ):
        path = tmp_path / "evil.pkl"
        path.write_bytes(code)
        with pytest.raises(CheckpointError):
            read_pickled(path)


def test_an_escape_that_there_is_not(tmp_path):
    path = tmp_path / "odd.pkl"
    path.write_bytes(b"\x80\x02c\\Kollections\nOrderedDict\n.")
    with pytest.raises(CheckpointError, match=r"odd\.pkl is broken"):
        read_pickled(path)


@pytest.mark.parametrize("save", ["zip", "legacy", "pickle"])
def test_truncated_files(save, tmp_path):
    path = tmp_path / "t.pt"
    content = {"a": torch.arange(1000.0), "b": [1, 2, 3]}
    if save == "pickle":
        written(path, content)
    else:
        torch.save(content, path, _use_new_zipfile_serialization=save == "zip")
    whole = path.read_bytes()
    for length in (1, 10, len(whole) // 3, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"t\.pt"):
            read_pickled(path)


def rezipped(path, change):
    """Write a torch file again with changed entries: {name: content}."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    change(entries)
    return entries


@pytest.mark.parametrize(
    ("change", "compression", "message"),
    [
        (lambda e: e.pop("t/data/0"), zipfile.ZIP_STORED, "missing"),
        (lambda e: e.update({"t/data/0": b"1234"}), zipfile.ZIP_STORED, "4 bytes"),
        (lambda e: e.update({"t/byteorder": b"big"}), zipfile.ZIP_STORED, "big-endian"),
        (lambda e: e.update({"u/data.pkl": b"N."}), zipfile.ZIP_STORED, "2 entries named data.pkl"),
        (lambda e: None, zipfile.ZIP_DEFLATED, "compressed"),
        (lambda e: e.update({"t/data.pkl": b"cos\nsystem\n)R."}), zipfile.ZIP_STORED, r"os\.system"),
    ],
)
def test_zip_tricks(change, compression, message, tmp_path):
    path = tmp_path / "t.pt"
    torch.save({"a": torch.arange(100.0)}, path)
    entries = rezipped(path, change)
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    with pytest.raises(CheckpointError, match=message):
        read_pickled(path)


def test_entries_with_paths_are_never_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"a": torch.ones(1)}, tmp_path / "t.pt")
    with zipfile.ZipFile(tmp_path / "t.pt", "a") as archive:
        archive.writestr("../../outside", b"x")
        archive.writestr("/tmp/outside", b"x")
    before = sorted(tmp_path.rglob("*"))
    assert read_pickled(tmp_path / "t.pt")["a"].load().item() == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(("shape", "stride"), [((10**9, 10**9), (0, 0)), ((5,), (1,)), ((2,), (-1,)), ((2, 2), (1,))])
def test_views_beyond_their_storage(shape, stride, tmp_path):
    path = tmp_path / "t.pt"
    torch.save({"a": torch.ones(4)}, path)

    class View:
        def __reduce__(self):
            return torch._utils._rebuild_tensor_v2, (
                torch.ones(4)._typed_storage(),
                0,
                shape,
                stride,
                False,
                OrderedDict(),
            )

    torch.save({"a": View()}, path)
    with pytest.raises(CheckpointError, match="does not fit"):
        read_pickled(path)


def test_a_small_file_does_not_become_a_huge_object(tmp_path, monkeypatch):
    monkeypatch.setattr(pickled_types, "_MAX_ENTRIES", 5000)
    content: list = []
    for _ in range(40):
        content = [content, content]
    loaded = read_pickled(written(tmp_path / "bomb.pkl", content))
    with pytest.raises(CheckpointError, match="entries"):
        plain(loaded, "bomb.pkl")
    circle: dict = {}
    circle["self"] = circle
    with pytest.raises(CheckpointError, match="nested"):
        plain(read_pickled(written(tmp_path / "circle.pkl", circle)), "circle.pkl")


def test_references_within_a_configuration():
    config = {"model": {"width": 8}, "a": "${model.width}", "b": ["${a}"], "c": "${b.c}", "d": "${d}", "e": "x${a}"}
    assert resolve_references(config) == {
        "model": {"width": 8},
        "a": 8,
        "b": [8],
        "c": "${b.c}",
        "d": "${d}",
        "e": "x${a}",
    }
