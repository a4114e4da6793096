"""What a person sees: one live line for each step on standard error; results go to standard output."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantpress.errors import printable

if TYPE_CHECKING:
    from rich.console import Console as RichConsole

_HEARTBEAT_S = 10.0
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
# What loguru and vLLM put before a message.
_PREFIX = re.compile(r"^(\S+ \| \w+ \| \w+ - |\(\w+ pid=\d+\) (\w+ [\d-]+ [\d:]+ \[[^\]]*\] )?)")
_TQDM = re.compile(r"^(?P<what>.*?):?\s*(?P<percent>\d{1,3})%\|(?:.*\[[\d:]+<(?P<left>[\d:]+),)?")


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
        if piece.strip():
            return piece.strip()
    return ""


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

    @cached_property
    def _rich(self) -> RichConsole:
        from rich.console import Console as RichConsole  # 60 ms: only where something is shown

        return RichConsole(stderr=True, highlight=False, markup=False, soft_wrap=True)

    def show(self, result: Any, text: str) -> None:
        print(json.dumps(result, indent=2, ensure_ascii=False) if self.as_json else printable(text))

    def say(self, text: str, style: str = "") -> None:
        if not self.quiet:
            self._rich.print(printable(text), style=style)

    def warn(self, text: str) -> None:
        self._rich.print(printable(f"warning: {text}"), style="yellow")

    @contextmanager
    def step(self, title: str, log: Path | None = None, source: Callable[[], str] | None = None) -> Iterator[Step]:
        """Shows that `title` is under way until the block ends; progress comes from `source` or the log's end."""
        step = Step(title, source or ((lambda: last_activity(log)) if log else (lambda: "")))
        done = False
        try:
            with self._live(step):
                yield step
            done = True
        finally:
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

        spinner = Spinner("dots")

        def render() -> Table:
            grid = Table.grid(padding=(0, 1))
            grid.add_row(
                spinner, _duration(step.elapsed), Text(printable(step.line()), no_wrap=True, overflow="ellipsis")
            )
            return grid

        return Live(console=self._rich, get_renderable=render, refresh_per_second=5, transient=True)

    @contextmanager
    def _heartbeat(self, step: Step) -> Iterator[None]:
        stop = threading.Event()

        def tick() -> None:
            while not stop.wait(_HEARTBEAT_S):
                self.say(f"… {step.line()}  ({_duration(step.elapsed)})")

        self.say(f"… {step.title}")
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


def step(title: str, log: Path | None = None, source: Callable[[], str] | None = None) -> AbstractContextManager[Step]:
    """Shows that `title` is under way until the block ends; progress comes from `source` or the log's end."""
    return _current().step(title, log, source)


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{int(seconds // 60)} min {int(seconds % 60):02d} s"
