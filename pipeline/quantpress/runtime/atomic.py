"""Files that are complete or absent: digests, atomic JSON, locks, and the publishing of whole directories."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from quantpress.errors import InputError, StageError
from quantpress.runtime import foreign

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def read_json(path: Path) -> Any:
    """Raises StageError if the file is not JSON: a file of ours that was cut short or edited."""
    try:
        return foreign.read_json(path)
    except (OSError, ValueError) as error:
        raise StageError(f"{path} cannot be read: {error}", hint=f"delete {path} and run again") from error


def read_kept(path: Path) -> Any:
    """What a file of the cache holds; None where there is none, or a damaged one: what is kept can be asked again."""
    try:
        return read_json(path) if path.is_file() else None
    except StageError:
        return None


def read_input(path: Path) -> str:
    """Text of a file that the user named: UTF-8, with or without a byte order mark. Raises InputError otherwise."""
    try:
        if not path.is_file():
            raise OSError("it is no regular file")
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}:{line}: not UTF-8: {error.reason}", hint="save the file as UTF-8") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error}", hint="name a text file in UTF-8") from error


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes to a sibling, syncs, renames: readers see the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def publish(staged: Path, final: Path) -> None:
    """Moves the finished directory `staged` to `final` in one step; what stood there before is then removed."""
    if not final.exists():
        staged.rename(final)
        return
    _exchange(staged, final)
    shutil.rmtree(staged)


def _exchange(one: Path, other: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(one), os.fsencode(other)
    if libc.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
        return
    code = ctypes.get_errno()
    if code not in (errno.EINVAL, errno.ENOSYS):
        raise OSError(code, os.strerror(code), str(other))
    # A file system without an atomic exchange (some network mounts): two renames, the old result last to go.
    aside = other.with_name(f".{other.name}.old-{os.getpid()}")
    other.rename(aside)
    one.rename(other)
    aside.rename(one)


@contextmanager
def staging(final: Path) -> Iterator[Path]:
    """A fresh directory beside `final` (same file system), removed on the way out unless it was published.

    Leftovers of killed runs are removed first, so call it with the artifact's lock held.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    for leftover in final.parent.glob(f".{final.name}.staging-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    staged = final.with_name(f".{final.name}.staging-{os.getpid()}")
    staged.mkdir()
    try:
        yield staged
    finally:
        shutil.rmtree(staged, ignore_errors=True)
