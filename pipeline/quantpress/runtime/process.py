"""Other programs: started under a guard so that none outlives quantpress, their output in a file that errors name."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import takewhile
from pathlib import Path

from quantpress.errors import bounded
from quantpress.runtime import guard
from quantpress.runtime.secrets import scrub

_guards: set[int] = set()  # process ids of the guards that are up
# A log is ours, and UTF-8: a library that prints a letter must not fail for the encoding of the caller's terminal.
_INTO_FILES = {"PYTHONIOENCODING": "utf-8", "PYTHONUTF8": "1"}
# An exception as Python prints it, alone or behind "(EngineCore pid=1) ERROR 01-01 00:00:00 [core.py:1] ".
_EXCEPTION = re.compile(r"^(?:\(.*?\] )?(?P<error>[A-Za-z_][\w.]*(?:Error|Exception|Interrupt)\b.*)$")

# What may follow an exception and is no part of its message: vLLM's lines, other logs' times, progress bars, Python's
# next traceback and its warnings at exit.
_NO_MESSAGE = re.compile(
    r"^(\(.*?\] ?|\[|\d{2,4}[-:]\d\d|(INFO|WARNING|ERROR|DEBUG)\b|Traceback|During handling|.*\d%\||/\S+:\d+:)"
)
_MESSAGE_LINES = 8
_GUARDS_OWN_S = 20.0  # beyond the grace that a guard gives, for all that it does itself


@contextmanager
def guarded(
    command: Sequence[str], log: Path | None, env: Mapping[str, str | None] | None = None, cwd: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Runs `command`; takes it and its descendants down at the end of the block.

    Its output is appended to `log`, or shown where `log` is None. It gets our environment with the changes of `env`; a
    variable that is None there is taken out. It runs in the folder `cwd`, or in ours.
    """
    guard.adopt_orphans()
    with ExitStack() as stack:
        stream = None
        if log:
            log.parent.mkdir(parents=True, exist_ok=True)
            stream = stack.enter_context(log.open("ab"))
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", guard.__file__, *command],
            stdin=subprocess.PIPE,
            stdout=stream,
            stderr=stream,
            env=_environment(_INTO_FILES if log else {}, env or {}),
            cwd=cwd,
            start_new_session=True,
        )
    _guards.add(process.pid)
    try:
        yield process
    finally:
        assert process.stdin is not None
        process.stdin.close()
        _wait_for_guard(process, env or {})
        _guards.discard(process.pid)
        if process.returncode < 0:
            take_down_orphans()
        if log:
            scrub(log)


def _wait_for_guard(process: subprocess.Popen[bytes], env: Mapping[str, str | None]) -> None:
    """Until it has taken everything down; one that does not (it may be stopped) is killed."""
    told = env.get("QUANTPRESS_GRACE_S")
    grace = float(told) if told else guard.GRACE_S
    try:
        process.wait(grace + _GUARDS_OWN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _environment(*changes: Mapping[str, str | None]) -> dict[str, str]:
    changed: dict[str, str | None] = {**os.environ}
    for one in changes:
        changed |= one
    return {name: value for name, value in changed.items() if value is not None}


def take_down_orphans() -> None:
    """Kills what a guard left behind that was itself killed: these processes are ours now (guard.adopt_orphans)."""
    import psutil  # 30 ms: hardly ever needed

    while orphans := [child for child in psutil.Process().children() if child.pid not in _guards]:
        tree = [below for orphan in orphans for below in (orphan, *orphan.children(recursive=True))]
        for one in tree:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        psutil.wait_procs(tree, timeout=10)


def run(command: Sequence[str], log: Path, env: Mapping[str, str | None] | None = None) -> int:
    """Runs `command` to its end. Returns its exit code; 128 + N for one that signal N killed."""
    with guarded(command, log, env) as process:
        return process.wait()


def errors_in(log: Path) -> list[str]:
    """The lines of a log that look like exceptions (with vLLM's prefixes cut off), or its last line.

    The last exception brings the lines after it that belong to its message.
    """
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    found = {number: match["error"] for number, line in enumerate(lines) if (match := _EXCEPTION.match(line))}
    if not found:
        return [bounded(lines[-1]) if lines else "it printed nothing"]
    last = max(found)
    more = takewhile(lambda line: not _NO_MESSAGE.match(line), lines[last + 1 : last + 1 + _MESSAGE_LINES])
    return [bounded(text) for text in (*list(found.values())[:-1], " ".join([found[last], *more]))]


def last_error(log: Path) -> str:
    return errors_in(log)[-1]
