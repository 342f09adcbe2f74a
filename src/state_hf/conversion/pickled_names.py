"""Which of the names in a pickle are data, in the spelling of either Python. No name is ever looked up to be used."""

import builtins
import datetime
import itertools
import re
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from typing import NamedTuple

import torch


class Global(NamedTuple):
    """A name that a pickle refers to; not the thing itself."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


def python3_name(module: str, name: str) -> Global:
    """What Python 3 calls a name of a pickle.

    Protocols 0 to 2 (PyTorch and Lightning write 2) have Python 2's names: `int` is `__builtin__.long` there. The
    tables are those by which Python's own pickler and unpickler translate.
    """
    if name.startswith("torch.") and name.removeprefix("torch.") in _TORCH_VALUES:
        return Global(*name.split("."))  # a memory format is found in whatever module has a `torch`
    if (module, name) in NAME_MAPPING:
        return Global(*NAME_MAPPING[module, name])
    return Global(IMPORT_MAPPING.get(module, module), name)


def _types_in(module: object) -> frozenset[str]:
    return frozenset(name for name, value in vars(module).items() if isinstance(value, type) and name[0] != "_")


EXCEPTIONS = frozenset(name for name in _types_in(builtins) if issubclass(getattr(builtins, name), BaseException))
# Types and constants that are named (as what a field's type is, say): no object is made of them by their name.
_STANDARD_TYPES = {
    "builtins": _types_in(builtins) | {"Ellipsis", "NotImplemented", "NoneType"},
    "datetime": _types_in(datetime),
    "itertools": _types_in(itertools),
    "types": frozenset(
        {"EllipsisType", "GenericAlias", "MappingProxyType", "NoneType", "SimpleNamespace", "UnionType"}
    ),
    "pathlib": frozenset({"Path", "PosixPath", "PurePath", "PurePosixPath", "PureWindowsPath", "WindowsPath"}),
    "uuid": frozenset({"SafeUUID", "UUID"}),
    "decimal": frozenset({"Decimal"}),
    "fractions": frozenset({"Fraction"}),
    "enum": frozenset({"Enum", "Flag", "IntEnum", "IntFlag", "StrEnum"}),
    "argparse": frozenset({"Namespace"}),
    "torch": frozenset({"device", "dtype", "finfo", "iinfo", "layout", "memory_format", "qscheme"}),
}
_TYPES = re.compile(
    r"(typing|typing_extensions|collections|collections\.abc|numbers)\.[A-Z]\w*|collections\.(defaultdict|deque)|"
    r"numpy\.(bool|object|str|string|unicode|bytes|void|generic|ndarray|dtype|datetime64|timedelta64|long|ulong|"
    r"u?(byte|short|intc?|intp|longlong)|half|single|double|longdouble|c(single|double|longdouble|float)|"
    r"(u?int|float|complex)\d*)_?"
)
# Values that PyTorch pickles by their names: its data types, layouts, memory formats and quantisation schemes.
_TORCH_VALUES = frozenset(
    name
    for name, value in vars(torch).items()
    if isinstance(value, torch.dtype | torch.layout | torch.memory_format | torch.qscheme)
)
# Those who write State's checkpoints name their classes so. Functions, which begin with a small letter, are none.
_FRAMEWORKS = re.compile(
    r"(torch|lightning|pytorch_lightning|lightning_fabric|lightning_utilities|torchmetrics|omegaconf|hydra|transformers|"
    r"peft|numpy|geomloss|state|vci|cell_load)(\.\w+)*"
)
_CLASS = re.compile(r"_{0,2}[A-Z]\w*(\.[A-Z]\w*)*")
# Where losses, activations and collators are from that a model was given: read past, whatever they are called.
_UNUSED_MODULES = re.compile(r"torch\.nn\.(modules\.\w+|functional)|torch\._C\._nn|(geomloss|state|vci)(\.\w+)*")
_RECORDS = frozenset({"argparse.Namespace", "types.SimpleNamespace", "uuid.UUID", "uuid.SafeUUID"})


def is_data(what: Global) -> bool:
    """Whether a pickle may name this: a type, a value that goes by its name, or a class whose objects are records."""
    return (
        what.name in _STANDARD_TYPES.get(what.module, ())
        or (what.module == "torch" and what.name in _TORCH_VALUES)
        or bool(_TYPES.fullmatch(str(what)))
        or is_record(what)
    )


def is_record(what: Global) -> bool:
    """Whether a pickle may hold objects of a class that has no builder: they are read as their state, and not made."""
    return (
        str(what) in _RECORDS
        or (what.module == "builtins" and what.name in EXCEPTIONS)
        or bool(_FRAMEWORKS.fullmatch(what.module) and _CLASS.fullmatch(what.name))
        or bool(_UNUSED_MODULES.fullmatch(what.module) and what.name.isidentifier())
    )


__all__ = ["EXCEPTIONS", "Global", "is_data", "is_record", "python3_name"]
