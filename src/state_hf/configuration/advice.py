"""Errors with ways out, told in the words of whoever asked: arguments in Python, options at the command line."""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

# An argument as a message names it: `layer=...`, `overwrite=True`, `controls='none'`, `target_genes={label: gene}`
_ARGUMENT = re.compile(r"\b([a-z][a-z0-9_]*)=(\.\.\.|True|False|None|'[^']*'|\{[^}]*\}|[\w./-]+)")
# Values that no option can give.
_UNSAID = ("None", "False")
_QUOTES = "'"


class Advised(str):
    """A message that ends in ways out of the problem.

    As text it is the problem and all ways. Each way names the arguments that it takes as `name=value` (`name=...` for
    any value), and `said` tells only those that somebody has, in their words. An error keeps the message:
    `ValueError(Advised("there is no control", "name its label (control=...)"))`.

    Args:
        problem: What is wrong.
        ways: What to do about it, each enough for itself; one without an argument can always be done.
        inner: Messages of this kind that the problem is made of.
    """

    problem: str
    ways: tuple[str, ...]
    inner: "tuple[Advised, ...]"

    def __new__(cls, problem: str, *ways: str, inner: "tuple[Advised, ...]" = ()) -> "Advised":
        """Join the problem and the ways."""
        message = super().__new__(cls, _joined(problem, ways))
        message.problem, message.ways, message.inner = problem, ways, inner
        return message

    def said(self, options: Mapping[str, str]) -> str:
        """The message for somebody who has these options: argument -> option."""
        known = [
            way for way in self.ways if all(_can_say(name, value, options) for name, value in _ARGUMENT.findall(way))
        ]
        text = _joined(self.problem, known)
        for message in self.inner:
            text = text.replace(str(message), message.said(options))
        return in_options(text, options)


def in_options(text: str, options: Mapping[str, str]) -> str:
    """The text with options in the place of arguments: `layer='counts'` as `--layer counts`."""

    def option(found: re.Match[str]) -> str:
        name, value = found.groups()
        if not _can_say(name, value, options):
            return found[0]
        is_bare = value in ("...", "True") or value.startswith("{")
        return options[name] if is_bare else f"{options[name]} {shlex.quote(value.strip(_QUOTES))}"

    return _ARGUMENT.sub(option, text)


def told(error: BaseException, options: Mapping[str, str]) -> str:
    """What an error says to somebody who has these options; also where it wraps one that was raised before."""
    text = str(error)
    for message in _messages(error):
        text = text.replace(str(message), message.said(options))
    return in_options(text, options)


def refuse_existing(path: str | Path, *, overwrite: bool) -> None:
    """Refuse an output that exists, as every command does.

    Args:
        path: A file, or a folder: an empty one is as good as none.
        overwrite: Whether it is to be replaced.

    Raises:
        FileExistsError: It exists, and is not to be replaced.
    """
    path = Path(path)
    if overwrite or not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    raise FileExistsError(Advised(f"{path} exists already", "choose another name", "replace it (overwrite=True)"))


def _can_go(way: str, options: Mapping[str, str]) -> bool:
    return all(_can_say(name, value, options) for name, value in _ARGUMENT.findall(way))


def _can_say(name: str, value: str, options: Mapping[str, str]) -> bool:
    return name in options and value not in _UNSAID


def _joined(problem: str, ways: Sequence[str]) -> str:
    return f"{problem}; {', or '.join(ways)}" if ways else problem


def _messages(error: BaseException | None) -> Iterator[Advised]:
    while error is not None:
        yield from (message for message in error.args if isinstance(message, Advised))
        error = error.__cause__


__all__ = ["Advised", "in_options", "refuse_existing", "told"]
