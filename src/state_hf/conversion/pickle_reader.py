"""Reads pickles as data: what they name is looked up in a table, and never imported or called."""

import datetime
import pickletools
import re
import warnings
from collections.abc import Callable
from typing import IO, Any

from state_hf.conversion.errors import CheckpointError, UnsafeCheckpointError
from state_hf.conversion.pickled_names import Global, is_data, is_record, python3_name


class RefusedCall(Exception):
    """What a builder says of arguments that are no data: the rest of "the file calls ..."."""


class Record:
    """An object of a pickle: its class's name, and its state as data.

    Args:
        kind: The class.
        state: Its state; of a member of an enumeration, its value.
    """

    def __init__(self, kind: Global, state: Any = None) -> None:
        self.kind = kind
        self.state = state


class _Mark:
    """Where an unfinished collection begins on the stack."""


_MARK = _Mark()
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY: dict[str, type] = {"EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "EMPTY_DICT": dict, "EMPTY_SET": set}
_FIXED_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_COLLECTIONS: dict[str, Callable[[list[Any]], Any]] = {
    "LIST": list,
    "TUPLE": tuple,
    "FROZENSET": lambda values: frozenset(map(hashable, values)),
}
_NEWEST_PROTOCOL = 5
# What pickletools says at the end of a file.
_CUT_OFF = re.compile(r"exhausted|not enough data|but only \d+ remain|no newline found")
_IGNORED = ("FRAME",)
_VALUES = re.compile(r"(BIN)?INT[12]?|LONG[14]?|(BIN)?FLOAT|(SHORT_)?(BIN)?(STRING|UNICODE|BYTES)8?|BYTEARRAY8")

# What a call of a global in a pickle makes; builds plain data from plain data.
Builders = dict[str, Callable[..., Any]]


class PickleReader:
    """A pickle machine whose only effects are on its own stack.

    Args:
        stream: Where the pickle begins. It is left where the pickle ends.
        source: Name of the file, for messages.
        builders: {global: what a call of it makes}, such as `{"collections.OrderedDict": dict}`. Other names of data
            may be there, too, and objects of known classes as `Record`s (`state_hf.conversion.pickled_names`).
        persistent_load: What a persistent id stands for.
    """

    def __init__(
        self,
        stream: IO[bytes],
        source: str,
        *,
        builders: Builders,
        persistent_load: Callable[[Any], Any] | None = None,
    ) -> None:
        self.stream = stream
        self.source = source
        self.builders = {**builders, "builtins.getattr": self._attribute}
        self.persistent_load = persistent_load
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def read(self) -> Any:
        """The pickled object.

        Raises:
            UnsafeCheckpointError: If the pickle names a global, or calls one, that is not data.
            CheckpointError: If it is truncated or malformed.
        """
        done = 0
        try:
            # What Python warns of in a string is nothing that a pickler writes.
            with warnings.catch_warnings(action="error", category=DeprecationWarning):
                for opcode, argument, _ in pickletools.genops(self.stream):
                    if opcode.name == "STOP":
                        return self.stack.pop()
                    self._step(opcode.name, argument)
                    done += 1
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
            if not done:
                raise CheckpointError(
                    f"{self.source} is neither a file of torch.save nor a pickle: it begins with no pickle's "
                    f"instruction ({error})."
                ) from error
            if _CUT_OFF.search(str(error)):
                raise CheckpointError(
                    f"{self.source} is broken: its pickle is cut off ({error}). Fetch it again."
                ) from error
            raise CheckpointError(f"{self.source} is broken: its pickle is malformed ({error}).") from error
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
        self._target(set).update(map(hashable, values))

    def _set_item(self, _: Any) -> None:
        key, value = self.stack[-2:]
        del self.stack[-2:]
        self._set_items_of([key, self._data(value)])

    def _set_items(self, _: Any) -> None:
        self._set_items_of(self._since_mark())

    def _set_items_of(self, values: list[Any]) -> None:
        target = self._target(dict)
        for key, value in zip(values[::2], values[1::2], strict=True):
            target[hashable(key)] = value

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

    def _check_protocol(self, protocol: int) -> None:
        if protocol > _NEWEST_PROTOCOL:
            raise CheckpointError(
                f"{self.source} is pickled with protocol {protocol}, and the newest that is read here is "
                f"{_NEWEST_PROTOCOL}: write it with `torch.save(..., pickle_protocol=2)`, torch.save's own default."
            )

    def _refuse_buffer(self, _: Any) -> None:
        raise CheckpointError(
            f"{self.source} is no whole pickle: it refers to buffers that were kept outside of it (pickle's "
            "`buffer_callback`). Write it with torch.save."
        )

    def _global(self, argument: str) -> None:
        module, name = argument.split(" ", 1)
        self.stack.append(self._allowed(module, name))

    def _stack_global(self, _: Any) -> None:
        module, name = self.stack[-2:]
        del self.stack[-2:]
        self.stack.append(self._allowed(str(module), str(name)))

    def _allowed(self, module: str, name: str) -> Global:
        what = python3_name(module, name)
        if str(what) in self.builders or is_data(what):
            return what
        written = f"{module}.{name}"
        meant = "" if str(what) == written else f" (Python 2's name of {what})"
        raise UnsafeCheckpointError(
            f"{self.source} is refused: it names {written}{meant}, which is code and not data. Nothing of it was run."
        )

    def _call(self, _: Any) -> None:
        what, arguments = self.stack[-2:]
        del self.stack[-2:]
        if isinstance(what, Global) and not isinstance(arguments, tuple):
            raise ValueError(f"{what} is called with a {type(arguments).__name__}")
        if isinstance(what, Global) and str(what) in self.builders:
            try:
                self.stack.append(self.builders[str(what)](*arguments))
            except RefusedCall as error:
                raise UnsafeCheckpointError(
                    f"{self.source} is refused: it calls {what} {error}. Nothing of it was run."
                ) from error
        elif isinstance(what, Global) and is_record(what) and arguments and all(map(_is_plain, arguments)):
            # A member of an enumeration is pickled as a call of it with the member's value.
            self.stack.append(Record(what, arguments[0] if len(arguments) == 1 else arguments))
        else:
            raise UnsafeCheckpointError(
                f"{self.source} is refused: it calls {what if isinstance(what, Global) else type(what).__name__}, "
                "which makes no data. Nothing of it was run."
            )

    def _attribute(self, parent: Any, name: Any) -> Global:
        """A class or member within a class, which protocols before 4 write as a call of `getattr`."""
        if not isinstance(parent, Global) or not isinstance(name, str):
            raise RefusedCall("of what is no class")
        return self._allowed(parent.module, f"{parent.name}.{name}")

    def _new_object(self, _: Any) -> None:
        what, arguments = self.stack[-2:]
        if isinstance(what, Global) and is_record(what):
            # The arguments of a class's `__new__` say nothing that its state does not.
            self.stack[-2:] = [Record(what)]
        elif isinstance(what, Global) and isinstance(arguments, tuple):
            self._call(None)
        else:
            raise ValueError("an object without a class")

    def _new_object_with_names(self, _: Any) -> None:
        if self.stack.pop():
            raise ValueError("an object that is made with named arguments")
        self._new_object(None)

    def _set_state(self, _: Any) -> None:
        state = self._data(self.stack.pop())
        target = self._data(self.stack[-1])
        if isinstance(target, Record):
            target.state = state
        elif isinstance(target, Global):
            raise UnsafeCheckpointError(
                f"{self.source} is refused: it sets the state of {target} itself, which is no object of the file. "
                "Nothing of it was run."
            )
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
        "PROTO": _check_protocol,
        "NEXT_BUFFER": _refuse_buffer,
        "READONLY_BUFFER": _refuse_buffer,
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
        "NEWOBJ_EX": _new_object_with_names,
        "BUILD": _set_state,
        "PERSID": _persistent,
        "BINPERSID": _persistent,
    }


def hashable(key: Any) -> Any:
    """A key as it is, if it is one: nested tuples would be hashed level by level, however many there are."""
    flat = isinstance(key, tuple) and not isinstance(key, Global)
    if not all(_is_scalar(part) for part in (key if flat else (key,))):
        raise ValueError(f"a {type(key).__name__} as a key")
    return key


def _is_scalar(value: Any) -> bool:
    return isinstance(value, str | bytes | int | float | complex | None | Global | Record | datetime.date)


def _is_plain(value: Any) -> bool:
    return _is_scalar(value) or (isinstance(value, tuple) and all(map(_is_scalar, value)))


__all__ = ["Builders", "PickleReader", "Record", "RefusedCall", "hashable"]
