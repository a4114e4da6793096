"""Names of layers: compressed-tensors' rule for targets and ignore, in bounded time."""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache

from quantpress.errors import InputError

_SECONDS = 2.0  # for one pattern against every name of a model; 10,000 names take 0.02 s


class _OutOfTimeError(Exception):
    pass


def matching(pattern: str, names: Iterable[str]) -> list[str]:
    """Those of `names` that a target or ignore matches: all for the class Linear, one by its name, or re:PATTERN.

    Raises InputError for a pattern that would take for ever: llmcompressor and vLLM would hang on it too.
    """
    if pattern == "Linear":
        return list(names)
    if not pattern.startswith("re:"):
        return [name for name in names if name == pattern]
    compiled = _compiled(pattern)
    try:
        with _time_limit():
            return [name for name in names if compiled.match(name)]
    except _OutOfTimeError as error:
        raise InputError(
            f"the pattern {pattern[:200]!r} takes more than {_SECONDS:.0f} s to match this model's layer names",
            hint="write it without nested repeats such as (a+)+",
        ) from error


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern.removeprefix("re:"))


def selected(names: Sequence[str], targets: Sequence[str], ignore: Sequence[str] = ()) -> list[str]:
    """The names that a target matches and no ignore does, in their order."""
    wanted = {name for pattern in targets for name in matching(pattern, names)}
    unwanted = {name for pattern in ignore for name in matching(pattern, names)}
    return [name for name in names if name in wanted and name not in unwanted]


@contextmanager
def _time_limit() -> Iterator[None]:
    """Interrupts the regular expression engine, which looks for signals while it backtracks. Main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise _OutOfTimeError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, _SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
