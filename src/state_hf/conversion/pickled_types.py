"""The types that a checkpoint's pickle may hold, and what each becomes: containers, numbers, arrays, configurations."""

import datetime
import re
from collections.abc import Callable
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, cast

import numpy as np

from state_hf.conversion.errors import CheckpointError
from state_hf.conversion.pickle_reader import Builders, Record, RefusedCall, hashable
from state_hf.conversion.pickled_names import EXCEPTIONS, Global, is_data, is_record

_DICTIONARIES = re.compile(
    r"(lightning|pytorch_lightning|lightning_fabric)(\.\w+)+\.AttributeDict|argparse\.Namespace|types\.SimpleNamespace"
)
# A node of OmegaConf holds a value, its other objects others; with both goes what leads back up, the parent.
_OMEGACONF_CONTENT = ("_val", "_content")
_MAX_DEPTH = 64
_MAX_ENTRIES = 500_000
# Parts of a type's name may be shared: each level could double its length.
_MAX_TYPE_NAME = 10_000


class PickledDtype:
    """A numpy dtype: made of its code, then told its byte order."""

    def __init__(self, code: Any, *_: Any) -> None:
        if isinstance(code, bytes):
            code = code.decode("ascii")
        if not isinstance(code, str) or not re.fullmatch(r"[<>=|]?[biufcUSOMmV]\d{0,4}", code):
            raise ValueError(f"an array of type {code!r}")
        self.dtype = np.dtype(code)

    def set_pickled_state(self, state: Any) -> None:
        """Take the byte order from numpy's state: (version, order, ...)."""
        order, unit = state[1], state[8] if len(state) > 8 else None
        if self.dtype.kind in "mM" and unit is not None:
            name, count = unit[1][:2]
            self.dtype = np.dtype(f"{self.dtype.kind}8[{int(count)}{name.decode('ascii')}]")
        if order in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(order)


class PickledArray:
    """A numpy array: made empty, then filled."""

    def __init__(self, *_: Any) -> None:
        self.value: Any = None

    def set_pickled_state(self, state: Any) -> None:
        """Take the content from numpy's state: (version, shape, dtype, is Fortran, data)."""
        _, shape, dtype, fortran, data = state
        self.value = _array(data, dtype, shape, "F" if fortran else "C")


def _array(data: Any, dtype: PickledDtype, shape: Any, order: Any = "C") -> np.ndarray:
    if not isinstance(dtype, PickledDtype) or order not in ("C", "F"):
        raise ValueError("an array without a type")
    if dtype.dtype.hasobject:
        values = np.empty(len(data), dtype=object)
        values[:] = list(data)
    else:
        values = np.frombuffer(data, dtype=dtype.dtype)
    return values.reshape(shape, order=order)


def _scalar(dtype: PickledDtype, data: Any = b"") -> Any:
    if dtype.dtype.hasobject or len(data) != dtype.dtype.itemsize:
        raise ValueError("a number of the wrong size")
    return np.frombuffer(data, dtype=dtype.dtype)[0].item()


def _encode(text: str, encoding: str = "latin1") -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise ValueError(f"bytes encoded as {encoding!r}")
    return text.encode("latin1")


def _dictionary(items: Any = ()) -> dict[Any, Any]:
    pairs = items.items() if isinstance(items, dict) else items
    if not isinstance(items, dict | list | tuple):
        raise ValueError(f"a dictionary of a {type(items).__name__}")
    return {hashable(key): value for key, value in pairs}


def _default_dict(_factory: Any = None, items: Any = ()) -> dict[Any, Any]:
    return _dictionary(items)


def _deque(items: Any = (), _length: Any = None) -> list[Any]:
    return _sequence(list)(items)


def _sequence(kind: Callable[[Any], Any]) -> Callable[..., Any]:
    def build(items: Any = ()) -> Any:
        if not isinstance(items, list | tuple | set | frozenset | dict | str):
            raise ValueError(f"a sequence of a {type(items).__name__}")
        return kind(items)

    return build


def _set(kind: Callable[[Any], Any]) -> Callable[..., Any]:
    return lambda items=(): kind(map(hashable, _sequence(list)(items)))


def _bytes(kind: Callable[[Any], Any]) -> Callable[..., Any]:
    def build(content: Any = b"", encoding: str | None = None) -> Any:
        if isinstance(content, str) and encoding is not None:
            content = _encode(content, encoding)
        if not isinstance(content, bytes | list):
            raise ValueError(f"bytes of a {type(content).__name__}")
        return kind(content)

    return build


def _scalar_of(kind: Callable[..., Any], *accepted: type) -> Callable[..., Any]:
    """A builder of a number, a range or a time from numbers and text."""

    def build(*arguments: Any) -> Any:
        if not all(isinstance(argument, (int, float, str, type(None), *accepted)) for argument in arguments):
            raise ValueError("a number, range or time of something else")
        return kind(*arguments)

    return build


def _number_text(*parts: Any) -> str:
    """A decimal number or a fraction, as text: made into a number, a short text can fill the memory."""
    if not all(isinstance(part, int | str) for part in parts):
        raise ValueError("a number of something else")
    return "/".join(map(str, parts))


def _path(flavour: type[PurePosixPath | PureWindowsPath]) -> Callable[..., str]:
    def build(*parts: Any) -> str:
        if not all(isinstance(part, str) for part in parts):
            raise ValueError("a path of something else")
        return str(flavour(*parts))

    return build


def _type_of(value: Any = (), *rest: Any) -> Global:
    """The types without a name of their own are pickled as a call: `type(None)`."""
    constants = ("builtins.Ellipsis", "builtins.NotImplemented")
    if rest or not (value is None or (isinstance(value, Global) and str(value) in constants)):
        raise RefusedCall("to make a class")
    return Global("builtins", "NoneType" if value is None else f"type({value.name})")


def _generic(kind: Any, parameters: Any) -> Global:
    """`dict[str, int]`, by its name."""
    if not isinstance(kind, Global) or not is_data(kind):
        raise RefusedCall("of what is no type")
    flat = parameters if isinstance(parameters, tuple) and not isinstance(parameters, Global) else (parameters,)
    return Global(kind.module, _type_name(f"{kind.name}[{', '.join(map(_type_part, flat))}]"))


def _union(operation: Any, kinds: Any) -> Global:
    """`int | None`, by its name."""
    if (
        operation not in (Global("operator", "or_"), Global("_operator", "or_"))
        or not isinstance(kinds, tuple)
        or not kinds
    ):
        raise RefusedCall("of what are no types")
    return Global("types", _type_name(" | ".join(map(_type_part, kinds))))


def _type_part(part: Any) -> str:
    if isinstance(part, list):
        return f"[{', '.join(map(_type_part, part))}]"
    if isinstance(part, Global | str | int | None):
        return str(part)
    raise ValueError(f"a type with a {type(part).__name__} in it")


def _type_name(name: str) -> str:
    if len(name) > _MAX_TYPE_NAME:
        raise ValueError("a type with a name without end")
    return name


def _reconstructed(kind: Any = None, base: Any = None, state: Any = None) -> Record:
    """An object as protocols 0 and 1 write it."""
    if not isinstance(kind, Global) or not is_record(kind):
        raise RefusedCall(f"of {kind}, which is no class of data")
    return Record(kind, None if base == Global("builtins", "object") else state)


def _new_object(kind: Any = None, *_: Any) -> Record:
    return _reconstructed(kind, Global("builtins", "object"))


def _made(module: str, name: str) -> Callable[..., Record]:
    """A builder of objects that are made by a call, and then told their state."""
    return lambda *_: Record(Global(module, name))


def plain_builders() -> Builders:
    """Builders of containers, numbers, paths, times and numpy arrays, by their names in Python 3."""
    builders: Builders = {
        "collections.OrderedDict": _dictionary,
        "collections.Counter": _dictionary,
        "collections.deque": _deque,
        "collections.defaultdict": _default_dict,
        "_codecs.encode": _encode,
        "codecs.encode": _encode,
        "copyreg._reconstructor": _reconstructed,
        "copyreg.__newobj__": _new_object,
        "builtins.dict": _dictionary,
        "builtins.list": _sequence(list),
        "builtins.tuple": _sequence(tuple),
        "builtins.set": _set(set),
        "builtins.frozenset": _set(frozenset),
        "builtins.bytes": _bytes(bytes),
        "builtins.bytearray": _bytes(bytearray),
        "builtins.complex": _scalar_of(complex),
        "builtins.range": _scalar_of(range),
        "builtins.slice": _scalar_of(slice),
        "builtins.type": _type_of,
        "decimal.Decimal": _number_text,
        "fractions.Fraction": _number_text,
        "functools.reduce": _union,
        "operator.or_": _never_called,
        "types.GenericAlias": _generic,
        "types.SimpleNamespace": _made("types", "SimpleNamespace"),
        "numpy.ndarray": PickledArray,
        "numpy.dtype": PickledDtype,
    }
    builders["_functools.reduce"], builders["_operator.or_"] = builders["functools.reduce"], builders["operator.or_"]
    for module in ("operator", "_operator"):
        builders[f"{module}.getitem"] = _generic
    for name in EXCEPTIONS:
        builders[f"builtins.{name}"] = _made("builtins", name)
    for kind in (datetime.date, datetime.time, datetime.datetime, datetime.timedelta, datetime.timezone):
        builders[f"datetime.{kind.__name__}"] = _scalar_of(kind, bytes, datetime.timedelta, datetime.tzinfo)
    for module in ("numpy.core", "numpy._core"):
        builders[f"{module}.multiarray._reconstruct"] = PickledArray
        builders[f"{module}.multiarray.scalar"] = _scalar
        builders[f"{module}.numeric._frombuffer"] = _array
    for name in ("__randomstate_ctor", "__generator_ctor", "__bit_generator_ctor"):
        builders[f"numpy.random._pickle.{name}"] = _made("numpy.random", "RandomState")
    for module in ("numpy.random.bit_generator", "numpy.random._bit_generator"):
        builders[f"{module}.__pyx_unpickle_SeedSequence"] = _made("numpy.random", "SeedSequence")
    for kind_name in ("PosixPath", "PurePosixPath", "Path", "PurePath", "WindowsPath", "PureWindowsPath"):
        for module in ("pathlib", "pathlib._local"):
            builders[f"{module}.{kind_name}"] = _path(PureWindowsPath if "Windows" in kind_name else PurePosixPath)
    return builders


def _never_called(*_: Any) -> Any:
    raise RefusedCall("outside of a type")


def plain(value: Any, source: str) -> Any:
    """Containers of numbers and text, without the types they were pickled as; tensors stay as they are.

    Args:
        value: What `PickleReader.read` gave.
        source: Name of the file, for messages.

    Raises:
        CheckpointError: If it is nested deeper, or has more entries, than any configuration or gene table does: shared
            parts count each time, so that a small file cannot become a huge object.
    """
    return _Simplifier(source).simple(value, 0)


class _Simplifier:
    def __init__(self, source: str) -> None:
        self.source = source
        self.entries = 0

    def simple(self, value: Any, depth: int) -> Any:
        self.entries += 1
        if depth > _MAX_DEPTH or self.entries > _MAX_ENTRIES:
            raise CheckpointError(
                f"{self.source} is refused: its content is nested more than {_MAX_DEPTH} levels deep, or has more than "
                f"{_MAX_ENTRIES} entries."
            )
        if isinstance(value, Record):
            return self._simple_record(value, depth + 1)
        if isinstance(value, Global):
            return str(value)
        if isinstance(value, PickledArray):
            value = value.value
        if isinstance(value, np.ndarray):
            return self.simple(value.tolist(), depth + 1)
        if isinstance(value, dict):
            return {
                key if isinstance(key, tuple) else self.simple(key, depth + 1): self.simple(child, depth + 1)
                for key, child in value.items()
            }
        if isinstance(value, list | set | frozenset):
            return [self.simple(child, depth + 1) for child in value]
        if isinstance(value, tuple):
            return tuple(self.simple(child, depth + 1) for child in value)
        if isinstance(value, PickledDtype):
            return str(value.dtype)
        if isinstance(value, range | slice | datetime.date | datetime.time | datetime.timedelta | datetime.tzinfo):
            return str(value)
        return value

    def _simple_record(self, record: Record, depth: int) -> Any:
        name, state = str(record.kind), record.state
        if _DICTIONARIES.fullmatch(name):
            return self.simple(state or {}, depth)
        if record.kind.module.startswith("omegaconf.") and isinstance(state, dict):
            content = next((key for key in _OMEGACONF_CONTENT if key in state), None)
            if content is not None:
                return self.simple(state[content], depth)
        if isinstance(state, dict) and name == "uuid.UUID" and isinstance(state.get("int"), int):
            return f"{state['int']:032x}"
        if state is None or isinstance(state, dict | list | set):
            return f"<{name}>"
        # A member of an enumeration.
        return self.simple(state, depth)


def resolve_references(config: dict[str, Any]) -> dict[str, Any]:
    """Replace OmegaConf's references, such as `${model.kwargs.hidden_dim}`, by what they refer to.

    References of other kinds (to resolvers, within longer texts) stay text.
    """

    def resolved(value: Any, seen: tuple[str, ...]) -> Any:
        if isinstance(value, dict):
            return {key: resolved(child, seen) for key, child in value.items()}
        if isinstance(value, list):
            return [resolved(child, seen) for child in value]
        found = re.fullmatch(r"\$\{([\w.\-]+)\}", value) if isinstance(value, str) else None
        if found is None or found[1] in seen:
            return value
        target: Any = config
        for part in found[1].split("."):
            if not isinstance(target, dict) or part not in target:
                return value
            target = target[part]
        return resolved(target, (*seen, found[1]))

    return cast(dict[str, Any], resolved(config, ()))


__all__ = ["PickledArray", "PickledDtype", "plain", "plain_builders", "resolve_references"]
