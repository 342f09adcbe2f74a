"""Names in pickles: what Python, PyTorch and Lightning write of plain types and values is read, in both spellings."""

import builtins
import collections
import datetime
import decimal
import fractions
import pathlib
import pickle
import types
import typing
import uuid
from _compat_pickle import NAME_MAPPING
from argparse import Namespace

import numpy as np
import pytest
import torch

from state_hf.conversion.errors import CheckpointError, UnsafeCheckpointError
from state_hf.conversion.pickled_types import plain
from state_hf.conversion.torch_file import read_pickled

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


def read(content, path):
    """What the reader makes of a pickle."""
    path.write_bytes(content)
    return plain(read_pickled(path), str(path))


def naming(module, name):
    """A pickle of a name, as protocol 2 has it."""
    return f"\x80\x02c{module}\n{name}\n.".encode("latin1")


def calling(module, name, *arguments):
    """A pickle of a call, as protocol 2 has it."""
    inner = b"".join(pickle.dumps(argument, protocol=2)[2:-1] for argument in arguments)
    return f"\x80\x02c{module}\n{name}\n(".encode("latin1") + inner + b"tR."


PYTHON_2_TYPES = sorted(
    name
    for name, (module, new) in NAME_MAPPING.items()
    if module == "builtins" and isinstance(getattr(builtins, new, None), type)
)


@pytest.mark.parametrize(("module", "name"), PYTHON_2_TYPES)
def test_the_whole_table_of_renamed_types(module, name, tmp_path):
    """Python's own unpickler says which type is meant; here it is named, and not taken."""
    meant = pickle.loads(naming(module, name))
    place, found = read(naming(module, name), tmp_path / "p.pkl").split(".")
    assert place == "builtins"
    assert getattr(builtins, found) is meant


@pytest.mark.parametrize("name", ["intern", "unichr", "raw_input", "eval", "apply", "execfile", "compile", "open"])
def test_renamed_functions_are_code(name, tmp_path):
    with pytest.raises(UnsafeCheckpointError, match=rf"names __builtin__\.{name}"):
        read(naming("__builtin__", name), tmp_path / "p.pkl")


TYPES = {
    "int": int,
    "str": str,
    "bytes": bytes,
    "bytearray": bytearray,
    "float": float,
    "bool": bool,
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "complex": complex,
    "range": range,
    "slice": slice,
    "object": object,
    "type": type,
    "NoneType": type(None),
    "zip": zip,
    "ValueError": ValueError,
    "FileNotFoundError": OSError,
    "ModuleNotFoundError": ImportError,
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_types_that_are_named(protocol, tmp_path):
    for name, kind in TYPES.items():
        assert read(pickle.dumps({"type": kind}, protocol), tmp_path / "p.pkl") == {"type": f"builtins.{kind.__name__}"}
        assert name == kind.__name__ or kind in (OSError, ImportError)
    others = {
        "collections.OrderedDict": collections.OrderedDict,
        "typing.Any": typing.Any,
        "datetime.datetime": datetime.datetime,
        "numpy.float32": np.float32,
        "torch.device": torch.device,
        "torch.Size": torch.Size,
        "torch.dtype": torch.dtype,
        "torch.optim.adamw.AdamW": torch.optim.AdamW,
        "builtins.Ellipsis": ...,
        "builtins.type(Ellipsis)": type(...),
        "builtins.NotImplemented": NotImplemented,
    }
    for name, value in others.items():
        assert read(pickle.dumps([value], protocol), tmp_path / "p.pkl") == [name]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_types_with_parameters(protocol, tmp_path):
    kinds = {
        "typing.Union[builtins.int, builtins.NoneType]": typing.Optional[int],  # noqa: UP045 - as OmegaConf has it
        "typing.Dict[builtins.str, typing.Any]": typing.Dict[str, typing.Any],  # noqa: UP006
        "builtins.list[builtins.int]": list[int],
        "types.builtins.int | builtins.NoneType": int | None,
    }
    for name, kind in kinds.items():
        assert read(pickle.dumps(kind, protocol), tmp_path / "p.pkl") == name


VALUES = {
    "none": (None, None),
    "empty bytes": (b"", b""),
    "bytes": (b"a\xff", b"a\xff"),
    "bytearray": (bytearray(b"a\xff"), b"a\xff"),
    "complex": (1 - 2j, 1 - 2j),
    "range": (range(1, 7, 2), "range(1, 7, 2)"),
    "slice": (slice(1, None), "slice(1, None, None)"),
    "set": ({3}, [3]),
    "frozenset": (frozenset({"a"}), ["a"]),
    "datetime": (datetime.datetime(2026, 1, 2, 3, 4, 5), "2026-01-02 03:04:05"),
    "aware": (datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC), "2026-01-02 00:00:00+00:00"),
    "date": (datetime.date(2026, 1, 2), "2026-01-02"),
    "time": (datetime.time(1, 2), "01:02:00"),
    "timedelta": (datetime.timedelta(hours=5), "5:00:00"),
    "path": (pathlib.PurePosixPath("/a/b"), "/a/b"),
    "windows": (pathlib.PureWindowsPath("C:\\a\\b"), "C:\\a\\b"),
    "uuid": (uuid.UUID(int=255), f"{255:032x}"),
    "decimal": (decimal.Decimal("1.50"), "1.50"),
    "fraction": (fractions.Fraction(2, 3), "2/3"),
    "ordered": (collections.OrderedDict(a=1), {"a": 1}),
    "defaultdict": (collections.defaultdict(int, a=1), {"a": 1}),
    "counter": (collections.Counter("aab"), {"a": 2, "b": 1}),
    "deque": (collections.deque([1, 2], maxlen=5), [1, 2]),
    "namespace": (Namespace(a=1), {"a": 1}),
    "simple namespace": (types.SimpleNamespace(a=1), {"a": 1}),
    "size": (torch.Size([2, 3]), (2, 3)),
    "device": (torch.device("cuda", 1), "cuda:1"),
    "dtype": (torch.bfloat16, "torch.bfloat16"),
    "float8": (torch.float8_e4m3fn, "torch.float8_e4m3fn"),
    "layout": (torch.strided, "torch.strided"),
    "scheme": (torch.per_tensor_affine, "torch.per_tensor_affine"),
    "numpy dtype": (np.dtype("float32"), "float32"),
    "numpy bool": (np.bool_(True), True),
    "numpy str": (np.str_("a"), "a"),
    "numpy time": (np.array(["2026-01-02"], "M8[D]"), ["2026-01-02"]),
    "exception": (ValueError("a", 1), "<builtins.ValueError>"),
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", VALUES)
def test_plain_values(name, protocol, tmp_path):
    value, expected = VALUES[name]
    assert read(pickle.dumps({"value": value}, protocol), tmp_path / "p.pkl") == {"value": expected}


@pytest.mark.parametrize("protocol", [4, 5])
def test_memory_formats(protocol, tmp_path):
    """The older protocols do not pickle them."""
    pickled = pickle.dumps([torch.channels_last], protocol)
    assert read(pickled, tmp_path / "p.pkl") == ["torch.channels_last"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_random_states(protocol, tmp_path):
    for generator in (np.random.RandomState(0), np.random.default_rng(0)):
        assert isinstance(read(pickle.dumps({"rng": generator}, protocol), tmp_path / "p.pkl")["rng"], str)


@pytest.mark.parametrize("new_format", [True, False])
def test_through_torch_save(new_format, tmp_path):
    """PyTorch's old format keeps the classes of modules apart, with their source code."""
    content = {name: value for name, (value, _) in VALUES.items()} | {"loss": torch.nn.MSELoss(), "kinds": [int, str]}
    torch.save(content, tmp_path / "t.pt", _use_new_zipfile_serialization=new_format)
    found = plain(read_pickled(tmp_path / "t.pt"), "t.pt")
    assert found == {name: value for name, (_, value) in VALUES.items()} | {
        "loss": "<torch.nn.modules.loss.MSELoss>",
        "kinds": ["builtins.int", "builtins.str"],
    }


@pytest.mark.parametrize(
    ("module", "name", "value"),
    [
        ("omegaconf.base", "SCMode", 1),
        ("omegaconf._utils", "ValueKind", 0),
        ("lightning.pytorch.trainer.states", "RunningStage", "train"),
        ("pytorch_lightning.trainer.states", "TrainerFn", "fit"),
        ("lightning_fabric.utilities.enums", "LightningEnum", "x"),
        ("torch.distributed.fsdp.api", "ShardingStrategy", 2),
        ("torch._C._distributed_c10d", "ReduceOp", 0),
        ("state.configs", "Kind", ("a", 1)),
    ],
)
def test_members_of_enumerations(module, name, value, tmp_path):
    """By their value, as Python pickles them; by the name in their class, as Python 3.11.0 to 3.11.3 did."""
    assert read(calling(module, name, value), tmp_path / "p.pkl") == value
    by_name = f"\x80\x02c__builtin__\ngetattr\n(c{module}\n{name}\nX\x05\x00\x00\x00FIRSTtR.".encode("latin1")
    assert read(by_name, tmp_path / "p.pkl") == f"{module}.{name}.FIRST"


def test_enumerations_as_keys_and_in_sets(tmp_path):
    member = calling("omegaconf.base", "SCMode", 1)[2:-1]
    assert read(b"\x80\x04}" + member + b"K\x05s.", tmp_path / "p.pkl") == {1: 5}
    assert read(b"\x80\x04\x8f(" + member + b"\x90.", tmp_path / "p.pkl") == [1]


@pytest.mark.parametrize("node", ["AnyNode", "StringNode", "IntegerNode", "EnumNode", "BytesNode", "PathNode"])
def test_nodes_of_omegaconf(node, tmp_path):
    state = {"_metadata": None, "_parent": None, "_val": 7}
    made = f"\x80\x02comegaconf.nodes\n{node}\n)\x81".encode("latin1") + pickle.dumps(state, 2)[2:-1] + b"b."
    assert read(made, tmp_path / "p.pkl") == 7


def test_a_tensor_with_attributes_and_one_of_a_device_without_storages(tmp_path):
    tensor, expected = torch.nn.Parameter(torch.arange(3.0)), torch.arange(3.0)
    tensor.group = "a"
    array = pickle.dumps(expected.numpy(), 2)[2:-1]
    from_array = b"\x80\x02ctorch._utils\n_rebuild_device_tensor_from_numpy\n(" + array
    from_array += b"ctorch\nfloat32\nX\x05\x00\x00\x00xla:0\x89tR."
    torch.save({"a": tensor}, tmp_path / "t.pt")
    (tmp_path / "x.pkl").write_bytes(from_array)
    assert torch.equal(read_pickled(tmp_path / "t.pt")["a"].load(), expected)
    assert torch.equal(read_pickled(tmp_path / "x.pkl").load(), expected)


def evil(path):
    """The bytes of a pickled call that makes a file."""
    return f"cos\nsystem\n(X\x40\x00\x00\x00{f'touch {path}':<64}tR".encode("latin1")


def hostile(ran):
    """{kind: pickle that names what looks plain and reaches code}."""
    code, base = evil(ran), b"c__builtin__\nobject\nNtR."
    return {
        "eval under Python 2's name": b"\x80\x02c__builtin__\neval\n(X\x01\x00\x00\x001tR.",
        "getattr of a module": b"\x80\x02c__builtin__\ngetattr\n(cos\nos\nX\x06\x00\x00\x00systemtR.",
        "getattr of a type": b"\x80\x02c__builtin__\ngetattr\n(c__builtin__\nobject\nU\x0e__subclasses__tR.",
        "getattr of a class of torch": calling("__builtin__", "getattr", "x", "__globals__"),
        "a name within a type": b"\x80\x04\x8c\x08builtins\x8c\x13type.__subclasses__\x93.",
        "a name within a class of torch": b"\x80\x04\x8c\x05torch\x8c\x0eGenerator.seed\x93)R.",
        "a module within a module": b"\x80\x04\x8c\x13torch.serialization\x8c\x09os.system\x93)R.",
        "an exception with a call as its argument": b"\x80\x02cexceptions\nOSError\n(" + code + b"tR.",
        "an exception that is none": b"\x80\x02cexceptions\nsystem\n)R.",
        "a device of a call": b"\x80\x02ctorch\ndevice\n(" + code + b"tR.",
        "an object of a hostile class": b"\x80\x02ccopy_reg\n_reconstructor\n(csubprocess\nPopen\n" + base,
        "an object of a plain type": b"\x80\x02ccopy_reg\n_reconstructor\n(c__builtin__\nint\n" + base,
        "state of a type": b"\x80\x02c__builtin__\nlong\n}X\x01\x00\x00\x00aK\x01sb.",
        "state of a class of torch": b"\x80\x02ctorch\nGenerator\n}X\x01\x00\x00\x00aK\x01sb.",
        "a class that is made": calling("__builtin__", "type", "A", (), {}),
        "map of a function": b"\x80\x02citertools\nimap\n(c__builtin__\nlong\n]tR.",
        "reduce of a function": b"\x80\x02c__builtin__\nreduce\n(c__builtin__\nlong\n)tR.",
        "getitem of a list": calling("operator", "getitem", [1], 0),
        "or of numbers": calling("_operator", "or_", 1, 2),
        "attrgetter": calling("operator", "attrgetter", "system"),
        "methodcaller": calling("operator", "methodcaller", "system"),
        "a tensor by another call": b"\x80\x02ctorch._tensor\n_rebuild_from_type_v2\n(c__builtin__\nlong\nNNNtR.",
        "a function of torch": naming("torch", "load"),
        "a function of numpy": naming("numpy", "load"),
        "a function of lightning": naming("lightning.fabric.utilities.cloud_io", "_load"),
        "a function of transformers": naming("transformers.utils.hub", "cached_file"),
        "a partial function": naming("functools", "partial"),
        "a function of copyreg": naming("copy_reg", "pickle"),
        "commands": naming("commands", "getoutput"),
        "a function type": naming("types", "FunctionType"),
        "code": naming("types", "CodeType"),
    }


@pytest.mark.parametrize("kind", hostile("x"))
def test_names_that_look_plain_and_reach_code(kind, tmp_path):
    ran = tmp_path / "ran"
    (tmp_path / "evil.pkl").write_bytes(hostile(ran)[kind])
    with pytest.raises(UnsafeCheckpointError, match=r"evil\.pkl is refused"):
        read_pickled(tmp_path / "evil.pkl")
    assert not ran.exists()


@pytest.mark.parametrize(
    "content",
    [
        calling("torch", "device", {"a": 1}),
        calling("torch", "device", 1, 2, 3, 4),
        calling("torch", "Size", {"a": "b"}),
        calling("datetime", "datetime", b"0123456789"),
        calling("datetime", "timedelta", 10**30),
        calling("__builtin__", "complex", [1]),
        calling("__builtin__", "xrange", "a"),
        calling("__builtin__", "bytearray", 10**12),
        calling("__builtin__", "set", 10**12),
        calling("pathlib", "PosixPath", 1),
        calling("collections", "OrderedDict", [1]),
        calling("torch.serialization", "_get_layout", 1),
        b"\x80\x02cuuid\nUUID\n)R.",
    ],
)
def test_known_names_with_what_they_never_have(content, tmp_path):
    with pytest.raises(CheckpointError, match=r"p\.pkl"):
        read(content, tmp_path / "p.pkl")


@pytest.mark.parametrize("collection", [b"\x91", b"\x90", b"key"])
def test_nested_tuples_are_not_hashed(collection, tmp_path):
    """Each level of (t, t) doubles the work of hashing: sixty would take centuries."""
    nested = b")" + 60 * b"2\x86"
    end = {b"\x91": b"(" + nested + b"\x91", b"\x90": b"\x8f(" + nested + b"\x90", b"key": b"}" + nested + b"Ns"}
    with pytest.raises(CheckpointError, match="as a key"):
        read(b"\x80\x04" + end[collection] + b".", tmp_path / "p.pkl")
    named = b"cbuiltins\nfrozenset\n(]" + nested + b"atR."
    with pytest.raises(CheckpointError, match="as a key"):
        read(b"\x80\x02" + named, tmp_path / "p.pkl")


def test_names_of_types_do_not_grow_without_end(tmp_path):
    doubled = b"\x80\x02cbuiltins\nlist\nq\x00"
    for _ in range(40):
        doubled += b"ctypes\nGenericAlias\n(cbuiltins\ndict\nh\x00h\x00\x86tRq\x00"
    with pytest.raises(CheckpointError, match="name without end"):
        read(doubled + b".", tmp_path / "p.pkl")


def test_newer_protocols_and_buffers_elsewhere(tmp_path):
    with pytest.raises(CheckpointError, match=r"protocol 6, and the newest that is read here is 5"):
        read(b"\x80\x06N.", tmp_path / "p.pkl")
    buffers: list = []
    outside = pickle.dumps(np.arange(3), 5, buffer_callback=buffers.append)
    with pytest.raises(CheckpointError, match="buffers that were kept outside"):
        read(outside, tmp_path / "p.pkl")
