"""What a person sees: one live line for each step on standard error; results go to standard output."""

from __future__ import annotations

import codecs
import io
import json
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

from quantpress.errors import first_line, printable
from quantpress.runtime import secrets

if TYPE_CHECKING:
    from rich.console import Console as RichConsole
    from rich.console import RenderableType

_SILENCE_S = 8.0  # people take a program for dead after ten seconds
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
# What loguru and vLLM put before a message.
_PREFIX = re.compile(r"^(\S+ \| \w+ \| \w+ - |\(\w+ pid=\d+\) (\w+ [\d-]+ [\d:]+ \[[^\]]*\] )?)")
_TQDM = re.compile(r"^(?P<what>.*?):?\s*(?P<percent>\d{1,3})%\|(?:.*\[[\d:]+<(?P<left>[\d:]+),)?")


def safe(text: str) -> str:
    """Text from anywhere as it may go to a terminal: without secrets, and nothing in it that a terminal obeys."""
    return printable(secrets.without_secrets(text))


def last_activity(log: Path) -> str:
    """What a tool is doing, read off the end of its log: its last progress bar, or its last line."""
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, log.stat().st_size - 4096))
            tail = stream.read().decode("utf-8", "replace")
    except OSError:
        return ""
    for piece in reversed(re.split(r"[\r\n]+", _ANSI.sub("", tail))):
        piece = _PREFIX.sub("", piece)
        if bar := _TQDM.match(piece):
            left = f", {bar['left']} left" if bar["left"] else ""
            return f"{bar['what'].strip()} {bar['percent']}%{left}".strip()
        if piece.strip() and not piece.rstrip().endswith("}"):  # JSON is an answer, and nothing that is being done
            return piece.strip()
    return ""


# What we write ourselves beyond ASCII, for terminals and files that take nothing else.
_PLAIN = {
    "✓": "ok",
    "✗": "failed",
    "…": "...",
    "×": "x",
    "≥": ">=",
    "≤": "<=",
    "–": "-",
    "—": "-",
    "±": "+-",
    "→": "->",
}


def _in_plain_letters(error: UnicodeError) -> tuple[str, int]:
    """A codec's error handler: the same in ASCII where we know it, else as an escape, which is valid in JSON too."""
    assert isinstance(error, UnicodeEncodeError)
    wrong = error.object[error.start : error.end]
    plain = (_PLAIN.get(letter) or letter.encode("ascii", "backslashreplace").decode() for letter in wrong)
    return "".join(plain), error.end


codecs.register_error("quantpress", _in_plain_letters)


def _is_utf_8(encoding: str | None) -> bool:
    return (encoding or "").lower() in ("utf-8", "utf8")


def take_any_text() -> None:
    """Makes standard output and standard error write every text, whatever their encoding (LANG=C, ascii)."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="quantpress")


def flush() -> None:
    """Before the program ends: a reader of standard output that has gone (`| head`) is no error."""
    try:
        if sys.stdout:
            sys.stdout.flush()
    except (OSError, ValueError):
        _give_up(sys.stdout)


def _give_up(stream: TextIO) -> None:
    """What the stream still holds goes nowhere, so that Python does not try to write it at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    with suppress(OSError, ValueError):
        os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


class _Deaf(io.TextIOBase):
    """Standard error, or silence once nobody reads it: no work fails for want of a listener."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return (self._stream.encoding if self._stream else None) or "utf-8"

    def isatty(self) -> bool:
        return bool(self._stream and not self._stream.closed and self._stream.isatty())

    def fileno(self) -> int:
        if self._stream is None:
            raise io.UnsupportedOperation
        return self._stream.fileno()

    def write(self, text: str) -> int:
        self._try(lambda stream: stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._try(lambda stream: stream.flush())

    def _try(self, act: Callable[[TextIO], object]) -> None:
        if self._stream is None:
            return
        try:
            act(self._stream)
        except (OSError, ValueError):
            _give_up(self._stream)
            self._stream = None


class Step:
    """One step under way; `result` is what stays beside its title when it is done."""

    def __init__(self, title: str, source: Callable[[], str]) -> None:
        self.title = title
        self.result = ""
        self.started = time.monotonic()
        self._source = source

    def line(self) -> str:
        activity = self._source()
        return f"{self.title}  {activity}" if activity else self.title

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.started


class Console:
    """Writes progress. On a terminal a live line with the elapsed time, elsewhere a line a step and a heartbeat."""

    def __init__(self, quiet: bool = False, as_json: bool = False) -> None:
        self.quiet = quiet
        self.as_json = as_json
        self._warned: set[str] = set()
        self._steps = 0  # under way
        self._spoke = time.monotonic()

    @cached_property
    def _rich(self) -> RichConsole:
        from rich.console import Console as RichConsole  # 60 ms: only where something is shown

        return RichConsole(file=cast(TextIO, _Deaf(sys.stderr)), highlight=False, markup=False, soft_wrap=True)

    def show(self, result: Any, text: str) -> None:
        """What was made stays made if this cannot be written: that a reader has gone (`| head`) is no error."""
        only_ascii = sys.stdout is not None and not _is_utf_8(sys.stdout.encoding)
        made = json.dumps(secrets.cleaned(result), indent=2, ensure_ascii=only_ascii) if self.as_json else safe(text)
        self._print(made)

    def event(self, happened: Any, text: str) -> None:
        """One line of JSON while a command goes on, where results are JSON; else the text, if there is any."""
        if self.as_json:
            self._print(json.dumps(secrets.cleaned(happened)))
        elif text:
            self._print(safe(text))

    def write(self, text: str) -> None:
        """A text that is the result whatever --json says, as it is; else as `show`."""
        self._print(secrets.without_secrets(text).removesuffix("\n"))

    def _print(self, text: str) -> None:
        try:
            print(text, flush=True)
        except (OSError, ValueError) as error:
            _give_up(sys.stdout)
            if not isinstance(error, BrokenPipeError):
                self.warn(f"the result is there, but could not be printed: {first_line(error)}")

    def say(self, text: str, style: str = "") -> None:
        if not self.quiet:
            self._say(text, style)

    def warn(self, text: str) -> None:
        """Once, however often it is said."""
        if text not in self._warned:
            self._warned.add(text)
            self._say(f"warning: {text}", "yellow")

    def complain(self, text: str) -> None:
        """An error, as it is."""
        stream = _Deaf(sys.stderr)
        stream.write(f"{safe(text)}\n")
        stream.flush()

    def _say(self, text: str, style: str) -> None:
        self._spoke = time.monotonic()
        self._rich.print(safe(text), style=style)

    @contextmanager
    def watch(self, what: str) -> Iterator[None]:
        """Says in the block that `what` is still under way whenever nothing was said for long and no step shows it."""
        started, stop = time.monotonic(), threading.Event()

        def tick() -> None:
            while not stop.wait(_SILENCE_S / 8):
                if not self._steps and time.monotonic() - self._spoke > _SILENCE_S:
                    self.say(f"… {what} goes on  ({_duration(time.monotonic() - started)})")

        with _ticking(stop, tick) if not self.quiet else nullcontext():
            yield

    @contextmanager
    def step(self, title: str, log: Path | None = None, source: Callable[[], str] | None = None) -> Iterator[Step]:
        """Shows that `title` is under way until the block ends; progress comes from `source` or the log's end."""
        step = Step(title, source or ((lambda: last_activity(log)) if log else (lambda: "")))
        done = False
        self._steps += 1
        try:
            with self._live(step):
                yield step
            done = True
        finally:
            self._steps -= 1
            detail = f"  {step.result}" if step.result else ""
            mark, style = ("✓", "") if done else ("✗", "red")
            self.say(f"{mark} {step.title}{detail}  ({_duration(step.elapsed)})", style)

    def _live(self, step: Step) -> AbstractContextManager[object]:
        if self.quiet:
            return nullcontext()
        if not self._rich.is_terminal:
            return self._heartbeat(step)
        from rich.live import Live
        from rich.spinner import Spinner
        from rich.table import Table
        from rich.text import Text

        spinner = Spinner("dots" if _is_utf_8(self._rich.encoding) else "line")

        def render() -> Table:
            grid = Table.grid(padding=(0, 1))
            grid.add_row(spinner, _duration(step.elapsed), Text(safe(step.line()), no_wrap=True, overflow="ellipsis"))
            return grid

        return Live(console=self._rich, get_renderable=render, refresh_per_second=5, transient=True)

    @contextmanager
    def live(self, title: str, render: Callable[[], RenderableType], source: Callable[[], str]) -> Iterator[None]:
        """Shows in the block what `render` makes, always as it is now; off a terminal a step with `source`."""
        if self.quiet or not self._rich.is_terminal:
            with self.step(title, source=source):
                yield
            return
        from rich.live import Live

        self._steps += 1
        try:
            with Live(console=self._rich, get_renderable=render, refresh_per_second=2, transient=True):
                yield
        finally:
            self._steps -= 1

    @contextmanager
    def _heartbeat(self, step: Step) -> Iterator[None]:
        stop = threading.Event()

        def tick() -> None:
            while not stop.wait(_SILENCE_S):
                self.say(f"… {step.line()}  ({_duration(step.elapsed)})")

        self.say(f"… {step.title}")
        with _ticking(stop, tick):
            yield


@contextmanager
def _ticking(stop: threading.Event, tick: Callable[[], None]) -> Iterator[None]:
    ticker = threading.Thread(target=tick, daemon=True)
    ticker.start()
    try:
        yield
    finally:
        stop.set()
        ticker.join()


_CURRENT: ContextVar[Console] = ContextVar("console")


def use(quiet: bool = False, as_json: bool = False) -> None:
    """Chooses how this program shows progress and results, from here on: `quiet` shows no progress."""
    take_any_text()
    _CURRENT.set(Console(quiet, as_json))


def _current() -> Console:
    if (found := _CURRENT.get(None)) is None:
        _CURRENT.set(found := Console())
    return found


def show(result: Any, text: str) -> None:
    """A command's result on standard output: JSON for machines, or the text for people."""
    _current().show(result, text)


def say(text: str, style: str = "") -> None:
    """A line of progress; --quiet leaves it out."""
    _current().say(text, style)


def warn(text: str) -> None:
    """A warning, which --quiet does not hide."""
    _current().warn(text)


def event(happened: Any, text: str = "") -> None:
    """Something of a result, on standard output while a command goes on: a line of JSON, or the text for people."""
    _current().event(happened, text)


def live(title: str, render: Callable[[], RenderableType], source: Callable[[], str]) -> AbstractContextManager[None]:
    """Shows what goes on in the block: on a terminal what `render` makes, elsewhere a step with `source`."""
    return _current().live(title, render, source)


def write(text: str) -> None:
    """A result that is a file's text, as it is."""
    _current().write(text)


def complain(text: str) -> None:
    """An error on standard error, which --quiet does not hide."""
    _current().complain(text)


def watch(what: str) -> AbstractContextManager[None]:
    """Says in the block that `what` is still under way whenever nothing was said for ten seconds."""
    return _current().watch(what)


def step(title: str, log: Path | None = None, source: Callable[[], str] | None = None) -> AbstractContextManager[Step]:
    """Shows that `title` is under way until the block ends; progress comes from `source` or the log's end."""
    return _current().step(title, log, source)


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{int(seconds // 60)} min {int(seconds % 60):02d} s"
