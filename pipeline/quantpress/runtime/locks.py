"""Locks of whole folders, which the kernel drops when their owner dies."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from quantpress.errors import StageError
from quantpress.runtime import console


@contextmanager
def lock(target: Path) -> Iterator[None]:
    """Holds `target` for this process. The kernel drops the lock when its owner dies.

    Raises StageError at once, naming the owner, if another process holds it.
    """
    path = target.with_name(f".{target.name}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            stream.seek(0)
            owner = stream.read().strip() or "unknown"
            raise StageError(
                f"{target} is being written by process {owner}; one run at a time may write an artifact",
                hint=f"wait until process {owner} ends, or write elsewhere with --out",
            ) from error
        _sign(stream)
        yield


@contextmanager
def turn(target: Path) -> Iterator[None]:
    """Holds `target` for this process as `lock` does, but waits while another one holds it, and says so.

    For what several runs may want at once and only the first has to make.
    """
    path = target.with_name(f".{target.name}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with console.step(f"waiting for another run that makes {target.name}"):
                fcntl.flock(stream, fcntl.LOCK_EX)
        _sign(stream)
        yield


def _sign(stream: IO[str]) -> None:
    stream.truncate(0)
    stream.write(f"{os.getpid()}\n")
    stream.flush()


def lock_owner(target: Path) -> str | None:
    """The process that holds `target`, or None."""
    path = target.with_name(f".{target.name}.lock")
    if not path.exists():
        return None
    with path.open(encoding="utf-8") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return stream.read().strip() or "unknown"
    return None
