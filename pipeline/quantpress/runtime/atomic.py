"""Files that are complete or absent, and the publishing of whole directories."""

from __future__ import annotations

import ctypes
import errno
import glob
import hashlib
import itertools
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from quantpress.errors import CapabilityError, InputError, StageError, listed
from quantpress.runtime import console, foreign, locks, ownership
from quantpress.runtime.ownership import Strangers, is_folder

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
# A staging folder's own mark, whose lock is held while someone works there. What is made lies beside it.
_MARK = ".quantpress"
_BEGINNING_S = 60.0  # from the making of a staging folder until its mark is locked, at most


def read_json(path: Path) -> Any:
    """Raises StageError if the file is not JSON: a file of ours that was cut short or edited."""
    try:
        return foreign.read_json(path)
    except (OSError, ValueError) as error:
        raise StageError(
            f"{path} cannot be read: {error}", hint=f"restore {path}, or move it away and run again"
        ) from error


def read_kept(path: Path) -> Any:
    """What `write_kept` put into a file of the cache; None where there is none, or one that was damaged or edited.

    That is said: what is kept can be asked again."""
    if not path.is_file():
        return None
    try:
        found = read_json(path)
    except StageError:
        found = None
    if not isinstance(found, dict) or found.get("sha256") != _checked(found.get("kept")):
        console.say(f"  {path} is damaged, edited, or of another version: what it kept is found anew")
        return None
    return found["kept"]


def write_kept(path: Path, value: Any) -> None:
    """Keeps a JSON value in the cache, with a digest that tells whether it is still what was written."""
    as_read = json.loads(json.dumps(value))
    write_json(path, {"sha256": _checked(as_read), "kept": as_read})


def _checked(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


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


@contextmanager
def staging(final: Path) -> Iterator[Path]:
    """A fresh directory beside `final` (same file system), removed on the way out unless it was published.

    Leftovers of killed runs are removed first. Raises CapabilityError where the file system cannot put a folder into
    place: that is tried before work starts.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    for leftover in leftovers(final.parent, final.name):
        discard(leftover)
    container = Path(tempfile.mkdtemp(prefix=f".{final.name}.staging-{os.getpid()}-", dir=final.parent))
    try:
        with (container / _MARK).open("w", encoding="utf-8") as mark:
            mark.write(f"{os.getpid()}\n")
            mark.flush()
            locks.hold(mark.fileno())
            _require_publishing(container)
            staged = container / "new"
            staged.mkdir()
            yield staged
    finally:
        discard(container)


def leftovers(folder: Path, name: str = "*") -> list[Path]:
    """The staging folders of killed runs in a folder, for the final `name` or for all: ours by their mark, which nobody
    holds. One that was not even marked yet is empty."""
    pattern = f".{name if name == '*' else glob.escape(name)}.staging-*"
    return [path for path in sorted(folder.glob(pattern)) if _is_leftover(path)]


def discard(container: Path) -> None:
    """Removes a staging folder, its mark last: killed on the way, it is still known as ours."""
    with suppress(OSError):
        for path in container.iterdir():
            if path.name != _MARK:
                ownership.remove(path)
        shutil.rmtree(container)


def _is_leftover(path: Path) -> bool:
    if not is_folder(path) or _is_just_begun(path):
        return False
    if not ownership.is_regular(path / _MARK):
        return not any(path.iterdir())
    with (path / _MARK).open(encoding="utf-8") as mark:
        return not locks.is_held(mark.fileno())


def _is_just_begun(path: Path) -> bool:
    """Whether its process may be about to mark it and to take the mark's lock."""
    process = path.name.rpartition(".staging-")[2].partition("-")[0]
    young = time.time() - path.stat().st_mtime < _BEGINNING_S
    return young and process.isdigit() and int(process) != os.getpid() and Path("/proc", process).exists()


def _require_publishing(container: Path) -> None:
    """Puts one empty folder in another's place, as `publish` does. Raises CapabilityError if that cannot be done."""
    one, other = container / "one", container / "other"
    one.mkdir()
    other.mkdir()
    try:
        if not _exchange(one, other):
            _swap(one, other, container / "aside")
    except OSError as error:
        raise CapabilityError(
            f"the file system of {container.parent} cannot move a finished folder into place: {error.strerror}",
            hint="write elsewhere with --out; QUANTPRESS_CACHE names another cache folder",
        ) from error
    finally:
        for path in (one, other, container / "aside"):
            shutil.rmtree(path, ignore_errors=True)


def publish(staged: Path, final: Path, strangers: Strangers) -> None:
    """Moves the finished directory `staged` (of `staging`) to `final` in one step; what stood there before is removed.

    `strangers` names what in the old folder is not ours: it was empty before work started (ownership.require_ours), and
    what came since is kept beside. Raises StageError if the folder cannot be put into place, naming where it is now.
    """
    try:
        old = _put(staged, final, strangers)
    except OSError as error:
        kept = _kept_beside(staged, final, "new")
        raise StageError(
            f"{final} cannot be replaced: {error}; what was made is complete in {kept}",
            hint=f"move {final} away, and {kept} in its place",
        ) from error
    if old and (found := strangers(old)):
        kept = _kept_beside(old, final, "old")
        console.warn(f"{final} held what quantpress did not write ({listed(found)}): the old folder is kept as {kept}")
    elif old:
        shutil.rmtree(old)


def _put(staged: Path, final: Path, strangers: Strangers) -> Path | None:
    """Puts it into place, and returns where the folder is now that stood there before."""
    if not os.path.lexists(final):
        with suppress(FileExistsError):  # somebody made one this moment
            staged.rename(final)
            return None
    if _exchange(staged, final):
        return staged
    aside = staged.with_name("old")
    try:
        _swap(staged, final, aside)
    except OSError as error:
        if error.errno != errno.EXDEV or strangers(final):
            raise
        # overlayfs cannot move a folder that came with the image. So it goes first, its marks last: until then it is
        # known as ours.
        _remove_marks_last(final)
        staged.rename(final)
        return None
    return aside


def _exchange(one: Path, other: Path) -> bool:
    """Exchanges two folders in one step; False where the file system cannot. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(one), os.fsencode(other)
    if libc.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EXDEV):
        return False
    raise OSError(code, os.strerror(code), str(other))


def _swap(staged: Path, final: Path, aside: Path) -> None:
    """The same in two steps, where there is no exchange (some network mounts); the old folder is put back if the second
    one fails."""
    final.rename(aside)
    try:
        staged.rename(final)
    except OSError:
        aside.rename(final)
        raise


def _remove_marks_last(folder: Path) -> None:
    for path in sorted(folder.iterdir(), key=lambda path: path.suffix == ".json"):
        ownership.remove(path)
    folder.rmdir()


def _kept_beside(folder: Path, final: Path, word: str) -> Path:
    """Moves a folder that must not be lost to a name beside `final` that is free."""
    names = (final.with_name(f"{final.name}.{word}{number or ''}") for number in itertools.count())
    kept = next(path for path in names if not os.path.lexists(path))
    folder.rename(kept)
    return kept
