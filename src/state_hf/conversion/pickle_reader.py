"""Reads pickles as data: what they name is looked up in a table, and never imported or called."""

import pickletools
import re
import warnings
from collections.abc import Callable
from typing import IO, Any, NamedTuple

from state_hf.conversion.errors import CheckpointError, UnsafeCheckpointError


class Global(NamedTuple):
    """A name that a pickle refers to; not the thing itself."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class Record:
    """An object of a pickle: its class's name, and its state as data."""

    def __init__(self, kind: Global) -> None:
        self.kind = kind
        self.state: Any = None


class _Mark:
    """Where an unfinished collection begins on the stack."""


_MARK = _Mark()
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY: dict[str, type] = {"EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "EMPTY_DICT": dict, "EMPTY_SET": set}
_FIXED_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_COLLECTIONS: dict[str, Callable[[list[Any]], Any]] = {"LIST": list, "TUPLE": tuple, "FROZENSET": frozenset}
_IGNORED = ("PROTO", "FRAME")
_VALUES = re.compile(r"(BIN)?INT[12]?|LONG[14]?|(BIN)?FLOAT|(SHORT_)?(BIN)?(STRING|UNICODE|BYTES)8?|BYTEARRAY8")

# What a call of a global in a pickle makes; builds plain data from plain data.
Builders = dict[str, Callable[..., Any]]


class PickleReader:
    """A pickle machine whose only effects are on its own stack.

    Args:
        stream: Where the pickle begins. It is left where the pickle ends.
        source: Name of the file, for messages.
        builders: {global: what a call of it makes}, such as `{"collections.OrderedDict": dict}`.
        is_record: Whether objects of a global may be there, as `Record`s.
        persistent_load: What a persistent id stands for.
    """

    def __init__(
        self,
        stream: IO[bytes],
        source: str,
        *,
        builders: Builders,
        is_record: Callable[[Global], bool],
        persistent_load: Callable[[Any], Any] | None = None,
    ) -> None:
        self.stream = stream
        self.source = source
        self.builders = builders
        self.is_record = is_record
        self.persistent_load = persistent_load
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def read(self) -> Any:
        """The pickled object.

        Raises:
            UnsafeCheckpointError: If the pickle names a global, or calls one, that is not data.
            CheckpointError: If it is truncated or malformed.
        """
        try:
            # What Python warns of in a string is nothing that a pickler writes.
            with warnings.catch_warnings(action="error", category=DeprecationWarning):
                for opcode, argument, _ in pickletools.genops(self.stream):
                    if opcode.name == "STOP":
                        return self.stack.pop()
                    self._step(opcode.name, argument)
        except CheckpointError:
            raise
        except (
            ValueError,
            IndexError,
            KeyError,
            TypeError,
            AttributeError,
            OverflowError,
            DeprecationWarning,
        ) as error:
            raise CheckpointError(
                f"{self.source} is broken: its pickle is truncated or malformed ({error})."
            ) from error
        raise CheckpointError(f"{self.source} is broken: its pickle has no end.")

    def _step(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name == "MARK":
            stack.append(_MARK)
        elif name in _FIXED_TUPLES:
            count = _FIXED_TUPLES[name]
            stack[-count:] = [tuple(self._data(value) for value in stack[-count:])]
        elif name in _COLLECTIONS:
            stack.append(_COLLECTIONS[name](self._since_mark()))
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self.memo[argument] = self._data(stack[-1])
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = self._data(stack[-1])
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif name in _IGNORED:
            pass
        elif name == "POP":
            stack.pop()
        elif name == "POP_MARK":
            self._since_mark()
        elif name == "DUP":
            stack.append(stack[-1])
        elif (action := self._ACTIONS.get(name)) is not None:
            action(self, argument)
        elif _VALUES.fullmatch(name):
            stack.append(argument)
        else:
            what = f" ({argument})" if name == "INST" else ""
            raise UnsafeCheckpointError(f"{self.source} is refused: its pickle uses the instruction {name}{what}.")

    def _data(self, value: Any) -> Any:
        if value is _MARK:
            raise ValueError("a collection without an end")
        return value

    def _since_mark(self) -> list[Any]:
        start = len(self.stack) - 1
        while self.stack[start] is not _MARK:
            start -= 1
            if start < 0:
                raise ValueError("a collection without a beginning")
        values = self.stack[start + 1 :]
        del self.stack[start:]
        return values

    def _append(self, _: Any) -> None:
        value = self._data(self.stack.pop())
        self._target(list).append(value)

    def _appends(self, _: Any) -> None:
        values = self._since_mark()
        self._target(list).extend(values)

    def _add_items(self, _: Any) -> None:
        values = self._since_mark()
        self._target(set).update(map(_hashable, values))

    def _set_item(self, _: Any) -> None:
        key, value = self.stack[-2:]
        del self.stack[-2:]
        self._set_items_of([key, self._data(value)])

    def _set_items(self, _: Any) -> None:
        self._set_items_of(self._since_mark())

    def _set_items_of(self, values: list[Any]) -> None:
        target = self._target(dict)
        for key, value in zip(values[::2], values[1::2], strict=True):
            target[_hashable(key)] = value

    def _target(self, kind: type) -> Any:
        target = self.stack[-1]
        if isinstance(target, Record) and target.state is None:
            target.state = kind()
        collection = target.state if isinstance(target, Record) else target
        if not isinstance(collection, kind):
            raise ValueError(f"items are put into a {type(collection).__name__}")
        return collection

    def _make_dict(self, _: Any) -> None:
        values = self._since_mark()
        self.stack.append({})
        self._set_items_of(values)

    def _global(self, argument: str) -> None:
        module, name = argument.split(" ", 1)
        self.stack.append(self._allowed(Global(module, name)))

    def _stack_global(self, _: Any) -> None:
        module, name = self.stack[-2:]
        del self.stack[-2:]
        self.stack.append(self._allowed(Global(str(module), str(name))))

    def _allowed(self, what: Global) -> Global:
        if str(what) in self.builders or self.is_record(what):
            return what
        raise UnsafeCheckpointError(
            f"{self.source} is refused: it names {what}, which is code and not data. Nothing of it was run."
        )

    def _call(self, _: Any) -> None:
        what, arguments = self.stack[-2:]
        del self.stack[-2:]
        if not isinstance(what, Global) or str(what) not in self.builders:
            raise UnsafeCheckpointError(
                f"{self.source} is refused: it calls {what if isinstance(what, Global) else type(what).__name__}, "
                "which makes no data. Nothing of it was run."
            )
        if not isinstance(arguments, tuple):
            raise ValueError(f"{what} is called with a {type(arguments).__name__}")
        self.stack.append(self.builders[str(what)](*arguments))

    def _new_object(self, _: Any) -> None:
        what, arguments = self.stack[-2:]
        if isinstance(what, Global) and self.is_record(what):
            # The arguments of a class's `__new__` say nothing that its state does not.
            self.stack[-2:] = [Record(what)]
        elif isinstance(what, Global) and isinstance(arguments, tuple):
            self._call(None)
        else:
            raise ValueError("an object without a class")

    def _set_state(self, _: Any) -> None:
        state = self._data(self.stack.pop())
        target = self._data(self.stack[-1])
        if isinstance(target, Record):
            target.state = state
        elif hasattr(target, "set_pickled_state"):
            target.set_pickled_state(state)
        elif not isinstance(target, dict):
            # A dictionary's attributes, such as those of a module's state dict, are no part of its content.
            raise ValueError(f"a {type(target).__name__} has no state")

    def _persistent(self, argument: Any) -> None:
        identity = self.stack.pop() if argument is None else argument
        if self.persistent_load is None:
            raise ValueError("a reference to a storage, of which there is none")
        self.stack.append(self.persistent_load(identity))

    _ACTIONS: dict[str, Callable[["PickleReader", Any], None]] = {  # noqa: RUF012
        "APPEND": _append,
        "APPENDS": _appends,
        "ADDITEMS": _add_items,
        "SETITEM": _set_item,
        "SETITEMS": _set_items,
        "DICT": _make_dict,
        "GLOBAL": _global,
        "STACK_GLOBAL": _stack_global,
        "REDUCE": _call,
        "NEWOBJ": _new_object,
        "BUILD": _set_state,
        "PERSID": _persistent,
        "BINPERSID": _persistent,
    }


def _hashable(key: Any) -> Any:
    """A key as it is, if it is one: nested tuples would be hashed level by level, however many there are."""
    flat = isinstance(key, tuple) and not isinstance(key, Global)
    if not all(isinstance(part, str | bytes | int | float | None | Global) for part in (key if flat else (key,))):
        raise ValueError(f"a {type(key).__name__} as a key")
    return key


__all__ = ["Builders", "Global", "PickleReader", "Record"]
