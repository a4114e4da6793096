"""Files that are complete or absent: digests, atomic JSON, locks, and the publishing of whole directories."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from quantpress.errors import CapabilityError, InputError, StageError

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def sha256_file(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_files(paths: Sequence[Path]) -> dict[Path, str]:
    """Digests of several files, read in parallel: hashing releases the interpreter's lock."""
    with ThreadPoolExecutor() as pool:
        return dict(zip(paths, pool.map(sha256_file, paths), strict=True))


def sha256_json(value: Any) -> str:
    """Digest of a JSON value in its canonical form: sorted keys, no spaces."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def cached_sha256(paths: Sequence[Path], cache: Path) -> dict[str, str]:
    """sha256 of each file by its name, remembered in the JSON file `cache` under resolved name, size and mtime.

    What is not remembered is read.
    """
    known = _remembered(cache)
    keys = {path: _identity(path) for path in paths}
    unknown = [path for path in paths if keys[path] not in known]
    if unknown:
        known |= {keys[path]: digest for path, digest in sha256_files(unknown).items()}
        write_json(cache, known)
    return {path.name: known[keys[path]] for path in paths}


def _remembered(cache: Path) -> dict[str, str]:
    """What the cache holds; nothing if it is damaged, for then everything is simply read again."""
    try:
        known = json.loads(cache.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _identity(path: Path) -> str:
    stat = path.stat()
    return f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}"


def read_json(path: Path) -> Any:
    """Raises StageError if the file is not JSON: a file of ours that was cut short or edited."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StageError(f"{path} cannot be read: {error}", hint=f"delete {path} and run again") from error


def read_input(path: Path) -> str:
    """Text of a file that the user named. Raises InputError if it cannot be read as UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
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


def slug(text: str) -> str:
    """A name that is safe as one path component: letters of any script, digits, dot, dash and underscore."""
    return re.sub(r"[^\w.-]+", "-", text.replace("/", "--")).strip(".-") or "unnamed"


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
        stream.truncate(0)
        stream.write(f"{os.getpid()}\n")
        stream.flush()
        yield


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


def require_space(folder: Path, needed: int) -> None:
    """Raises CapabilityError if the file system of `folder` has fewer than `needed` bytes free."""
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise CapabilityError(
            f"{free / 1e9:.2f} GB free at {existing}, {needed / 1e9:.2f} GB needed",
            hint="free some space, or write elsewhere with --out",
        )


def require_writable(folder: Path, hint: str = "choose another one with --out") -> None:
    """Raises CapabilityError if nothing can be created in `folder` (or in its nearest existing parent)."""
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise CapabilityError(f"{existing} is not a writable folder", hint=hint)


def tree_size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
