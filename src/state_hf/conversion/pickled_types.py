"""The types that a checkpoint's pickle may hold, and what each becomes: containers, numbers, arrays, configurations."""

import re
from collections.abc import Iterable
from typing import Any, cast

import numpy as np

from state_hf.conversion.errors import CheckpointError
from state_hf.conversion.pickle_reader import Builders, Global, Record

# Objects that are there for arc-state and PyTorch alone: a loss, an activation, a collator. Read past, never built.
_UNUSED_CLASSES = re.compile(r"torch\.nn\.(modules\.\w+|functional)|state(\.\w+)+|vci(\.\w+)*|geomloss(\.\w+)*")
_DICTIONARIES = (
    "lightning_fabric.utilities.data.AttributeDict",
    "lightning.fabric.utilities.data.AttributeDict",
    "pytorch_lightning.utilities.parsing.AttributeDict",
    "lightning.pytorch.utilities.parsing.AttributeDict",
    "argparse.Namespace",
)
_OMEGACONF = re.compile(
    r"omegaconf\.(dictconfig\.DictConfig|listconfig\.ListConfig|base\.(Container)?Metadata|"
    r"nodes\.(Any|String|Integer|Float|Boolean|Path)Node)"
)
_TYPE_NAMES = re.compile(
    r"typing\.(Any|Dict|List|Optional|Union)|(builtins|__builtin__)\.(dict|list|str|int|float|bool)"
)
_MAX_DEPTH = 64
_MAX_ENTRIES = 500_000


def is_record(what: Global) -> bool:
    """Whether a pickle may hold objects of a class (or the class's name) that has no builder."""
    name = str(what)
    return bool(
        name in _DICTIONARIES
        or _OMEGACONF.fullmatch(name)
        or _TYPE_NAMES.fullmatch(name)
        or _UNUSED_CLASSES.fullmatch(what.module)
    )


class PickledDtype:
    """A numpy dtype: made of its code, then told its byte order."""

    def __init__(self, code: Any, *_: Any) -> None:
        if isinstance(code, bytes):
            code = code.decode("ascii")
        if not isinstance(code, str) or not re.fullmatch(r"[<>=|]?[biufcUSO]\d{0,4}", code):
            raise ValueError(f"an array of type {code!r}")
        self.dtype = np.dtype(code)

    def set_pickled_state(self, state: Any) -> None:
        """Take the byte order from numpy's state: (version, order, ...)."""
        order = state[1]
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


def _default_dict(_factory: Any = None, items: Any = ()) -> dict[Any, Any]:
    return dict(items)


def _path(*parts: str) -> str:
    return "/".join(map(str, parts))


def _collection(kind: Any) -> Any:
    def build(items: Iterable[Any] = ()) -> Any:
        if not isinstance(items, list | tuple | dict | set | frozenset | bytes | str | int | float):
            raise ValueError(f"a {kind.__name__} of a {type(items).__name__}")
        if isinstance(items, int) and kind in (bytes, bytearray):
            raise ValueError("bytes of a length alone")
        return kind(items)

    return build


def plain_builders() -> Builders:
    """Builders of containers, numbers and numpy arrays."""
    builders: Builders = {
        "collections.OrderedDict": _collection(dict),
        "collections.Counter": _collection(dict),
        "collections.deque": lambda items=(), _length=None: list(items),
        "collections.defaultdict": _default_dict,
        "_codecs.encode": _encode,
        "copy_reg._reconstructor": _refuse_reconstructor,
        "copyreg._reconstructor": _refuse_reconstructor,
    }
    for kind in (set, frozenset, dict, list, tuple, bytearray, bytes):
        for module in ("builtins", "__builtin__"):
            builders[f"{module}.{kind.__name__}"] = _collection(kind)
    builders["builtins.complex"] = builders["__builtin__.complex"] = complex
    for module in ("numpy.core", "numpy._core"):
        builders[f"{module}.multiarray._reconstruct"] = PickledArray
        builders[f"{module}.multiarray.scalar"] = _scalar
        builders[f"{module}.numeric._frombuffer"] = _array
    builders["numpy.ndarray"] = PickledArray
    builders["numpy.dtype"] = PickledDtype
    for kind_name in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath", "Path"):
        for module in ("pathlib", "pathlib._local"):
            builders[f"{module}.{kind_name}"] = _path
    return builders


def _refuse_reconstructor(kind: Any = None, *_: Any) -> Any:
    raise CheckpointError(f"The pickle holds an object of {kind}, of a kind that is no data.")


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
        return value

    def _simple_record(self, record: Record, depth: int) -> Any:
        name, state = str(record.kind), record.state
        if name in _DICTIONARIES:
            return self.simple(state or {}, depth)
        if not _OMEGACONF.fullmatch(name) or not isinstance(state, dict):
            return f"<{name}>"
        # Not the parent, which is there too, and would lead back up.
        return self.simple(state.get("_val" if record.kind.module == "omegaconf.nodes" else "_content"), depth)


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


__all__ = ["PickledArray", "PickledDtype", "is_record", "plain", "plain_builders", "resolve_references"]
