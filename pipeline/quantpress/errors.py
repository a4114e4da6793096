"""The one error family. Every error states the value, the rule and the next command; its class is its exit code."""

from __future__ import annotations

import difflib
import errno
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


class QuantpressError(Exception):
    """Base of all errors that quantpress raises on purpose.

    `hint` is the next command or the remedy; `log` names the file that holds the tools' own output.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None, log: Path | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.log = log

    def render(self) -> str:
        lines = [f"error: {self.message}"]
        has_log = self.log is not None and self.log.is_file()
        if self.hint and (has_log or "the log" not in self.hint):
            lines.append(f"  next: {self.hint}")
        if has_log:
            lines.append(f"  log:  {self.log}")
        return printable("\n".join(lines))


# What a terminal obeys instead of showing it: control characters, and marks that turn the direction of writing.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """Text from files, models and tools as it may go to a terminal: what it would obey is written as an escape."""
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def shown(value: Any) -> str:
    """A value as messages show it: its repr, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def listed(names: Sequence[str], most: int = 3, between: str = ", ") -> str:
    """Names in a row: the first ones of many, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return between.join(names[:most]) + more


def enumerated(names: Sequence[str]) -> str:
    """All of them, as a sentence has them: one, two and three."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its class where it has none; all of it where that line ends in a colon,
    which promises that the reason follows."""
    first = (str(error).splitlines() or [type(error).__name__])[0]
    return one_line(error) if first.rstrip().endswith(":") else first


def one_line(error: BaseException) -> str:
    """All that an error's message says, its lines joined and cut at 400 characters; its class where it says nothing."""
    text = " ".join(line.strip() for line in str(error).splitlines() if line.strip())
    return bounded(text) or type(error).__name__


def bounded(text: str, longest: int = 400) -> str:
    """The text, cut where it is too long to be shown."""
    return text if len(text) <= longest else text[: longest - 3] + "..."


class StageError(QuantpressError):
    """A stage started and failed."""

    exit_code = 1


class InputError(QuantpressError):
    """The input is wrong. Nothing was written."""

    exit_code = 2


class GateError(QuantpressError):
    """A gate was not met. The results are there."""

    exit_code = 3


class CapabilityError(QuantpressError):
    """The environment or the hardware cannot do it."""

    exit_code = 4


# What libraries say when the machine has too little of something; Rust's and torch's errors carry no errno.
_NO_SPACE = ("no space left on device", "disk quota exceeded", "read-only file system")
_NO_MEMORY = ("can't allocate memory", "cannot allocate memory", "out of memory", "bad_alloc")


def of_the_environment(error: BaseException) -> CapabilityError | None:
    """The error as lack of space, memory or rights, if it is one, whichever library found out."""
    text = str(error).lower()
    number = error.errno if isinstance(error, OSError) else None
    if number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS) or any(sign in text for sign in _NO_SPACE):
        return CapabilityError(one_line(error), hint="free some space, or write elsewhere with --out")
    if number in (errno.EACCES, errno.EPERM):
        return CapabilityError(one_line(error), hint="change the permissions, or work elsewhere with --out")
    if isinstance(error, MemoryError) or number == errno.ENOMEM or any(sign in text for sign in _NO_MEMORY):
        return CapabilityError(
            f"too little memory: {one_line(error)}",
            hint="use a machine with more memory, or a smaller calibration.batch_size",
        )
    return None


def slug(text: str) -> str:
    """A name that is safe as one path component: letters of any script, digits, dot, dash and underscore."""
    return re.sub(r"[^\w.-]+", "-", text.replace("/", "--")).strip(".-") or "unnamed"


def nearest(name: str, known: Iterable[str]) -> str:
    """Names the nearest known name, or all of them."""
    names = sorted(known)
    return guessed(name, names) or (f"known: {', '.join(names)}" if names else "nothing is known here")


def guessed(name: str, known: Iterable[str]) -> str | None:
    """Asks for the nearest known name; None where none is near."""
    names = sorted(known)
    close = difflib.get_close_matches(name.lower(), [n.lower() for n in names], n=1, cutoff=0.6)
    return f"did you mean {next(n for n in names if n.lower() == close[0])!r}?" if close else None
