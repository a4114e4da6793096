"""Digests of files and JSON values, remembered where files have not changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from quantpress.errors import StageError, listed
from quantpress.runtime.atomic import read_kept, write_kept


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


def cached_sha256(paths: Sequence[Path], cache: Path) -> dict[Path, str]:
    """sha256 of each file, remembered in the JSON file `cache` by what tells that a file is the same (`identity`).

    What is not remembered is read.
    """
    known = _remembered(cache)
    keys = {path: identity(path) for path in paths}
    unknown = [path for path in paths if keys[path] not in known]
    if unknown:
        known |= {keys[path]: digest for path, digest in sha256_files(unknown).items()}
        write_kept(cache, known)
    return {path: known[keys[path]] for path in paths}


def _remembered(cache: Path) -> dict[str, str]:
    """What the cache holds; nothing if it is damaged, for then everything is simply read again."""
    known = read_kept(cache)
    return known if isinstance(known, dict) else {}


def identity(path: Path) -> str:
    """What tells that a file is the same as before: its resolved name, its inode, its size, and the times at which
    content and inode were changed. Nobody can set the last one."""
    stat = path.stat()
    return f"{path.resolve()}|{stat.st_dev}:{stat.st_ino}|{stat.st_size}|{stat.st_mtime_ns}|{stat.st_ctime_ns}"


Seen = dict[Path, str]  # files, by what tells that they are the same


def seen(paths: Sequence[Path]) -> Seen:
    """What `require_unchanged` compares with; taken before the digest that names what will be loaded."""
    return {path: identity(path) for path in paths}


def require_unchanged(before: Seen) -> None:
    """Raises StageError if one of the files is another one now: nobody knows which of the two was loaded."""
    if changed := [str(path) for path in before if not path.is_file() or identity(path) != before[path]]:
        raise StageError(
            f"{listed(changed)} changed while in use, so nobody knows what was loaded",
            hint="run again when nobody writes there",
        )


@contextmanager
def unchanged(paths: Sequence[Path]) -> Iterator[None]:
    """Does what `require_unchanged` does after the block. Digests that name what was loaded are taken in the block."""
    before = seen(paths)
    yield
    require_unchanged(before)
