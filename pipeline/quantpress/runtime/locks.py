"""Locks of whole folders, which the kernel drops when their owner dies.

They are open file description locks (fcntl(2), F_OFD_SETLK): other than flock's they can be looked at without being
taken, and NFS passes them on to its server.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from quantpress.errors import CapabilityError, StageError
from quantpress.runtime import console

_FLOCK = "hhlli0l"  # struct flock: type, whence, start, length, pid
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


@contextmanager
def lock(target: Path) -> Iterator[None]:
    """Holds `target` for this process. The kernel drops the lock when its owner dies.

    Raises StageError at once, naming the owner, if another process holds it; CapabilityError where the file system
    keeps no locks.
    """
    with _opened(target) as file:
        if not _take(file, target, fcntl.F_WRLCK):
            owner = _signed_by(file)
            raise StageError(
                f"{target} is being written by process {owner}; one run at a time may write an artifact",
                hint=f"wait until process {owner} ends, or write elsewhere with --out",
            )
        _sign(file)
        yield


@contextmanager
def turn(target: Path) -> Iterator[None]:
    """Holds `target` for this process as `lock` does, but waits while another one holds it, and says so.

    For what several runs may want at once and only the first has to make.
    """
    with _opened(target) as file:
        if not _take(file, target, fcntl.F_WRLCK):
            with console.step(f"waiting for another run that makes {target.name}"):
                _take(file, target, fcntl.F_WRLCK, wait=True)
        _sign(file)
        yield


@contextmanager
def using(target: Path) -> Iterator[None]:
    """Holds `target` together with others who use it: while they do, nobody gets `lock(target)`."""
    with _opened(target) as file:
        if not _take(file, target, fcntl.F_RDLCK):
            with console.step(f"waiting for another run that tidies {target.name}"):
                _take(file, target, fcntl.F_RDLCK, wait=True)
        _sign(file)  # of several, the last one is named
        yield


def lock_owner(target: Path) -> str | None:
    """The process that holds `target`, or None. Only looks: whoever wants the lock at this moment gets it."""
    try:
        file = os.open(_place(target), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:  # there is none, or a link, which no lock of ours is
        return None
    try:
        return _signed_by(file) if is_held(file) else None
    finally:
        os.close(file)


def is_held(file: int) -> bool:
    """Whether an open file is locked by anybody else; the lock is not touched."""
    try:
        found = fcntl.fcntl(file, fcntl.F_OFD_GETLK, _whole(fcntl.F_WRLCK))
    except OSError:  # a file system without locks: nobody holds one
        return False
    return bool(struct.unpack(_FLOCK, found)[0] != fcntl.F_UNLCK)


def hold(file: int) -> bool:
    """Takes the lock of a file that is open for writing, until it is closed; False where another one has it."""
    return _take(file, None, fcntl.F_WRLCK)


def _place(target: Path) -> Path:
    return target.with_name(f".{target.name}.lock")


@contextmanager
def _opened(target: Path) -> Iterator[int]:
    """The lock's own file. Raises StageError for one that is a link, by either name: what it leads to is not ours."""
    path = _place(target)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _no_lock_of_ours(path) from error
        raise
    try:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
            raise _no_lock_of_ours(path)
        yield file
    finally:
        os.close(file)


def _no_lock_of_ours(path: Path) -> StageError:
    return StageError(f"{path} is a link or no file, and a lock of ours is neither", hint=f"move {path} away")


def _take(file: int, target: Path | None, kind: int, *, wait: bool = False) -> bool:
    """Whether the lock was got. Raises CapabilityError where the file system keeps none."""
    try:
        fcntl.fcntl(file, fcntl.F_OFD_SETLKW if wait else fcntl.F_OFD_SETLK, _whole(kind))
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        if error.errno in _NO_LOCKS:
            where = target.parent if target else "this folder"
            raise CapabilityError(
                f"the file system of {where} keeps no locks ({error.strerror}), so two runs could write at once",
                hint="write elsewhere with --out; QUANTPRESS_CACHE names another cache folder",
            ) from error
        raise
    return True


def _whole(kind: int) -> bytes:
    """A lock of this kind on a whole file."""
    return struct.pack(_FLOCK, kind, os.SEEK_SET, 0, 0, 0)


def _sign(file: int) -> None:
    os.ftruncate(file, 0)
    os.pwrite(file, f"{os.getpid()}\n".encode(), 0)


def _signed_by(file: int) -> str:
    return os.pread(file, 100, 0).decode("utf-8", "replace").strip() or "unknown"
