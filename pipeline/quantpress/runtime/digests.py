"""Digests of files and JSON values, remembered where files have not changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from quantpress.runtime.atomic import write_json


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
    """sha256 of each file by its name, remembered as `cached_by_path` does."""
    return {path.name: digest for path, digest in cached_by_path(paths, cache).items()}


def cached_by_path(paths: Iterable[Path], cache: Path) -> dict[Path, str]:
    """sha256 of each file, remembered in the JSON file `cache` under resolved name, size and mtime.

    What is not remembered is read.
    """
    known = _remembered(cache)
    keys = {path: _identity(path) for path in paths}
    unknown = [path for path, key in keys.items() if key not in known]
    if unknown:
        known |= {keys[path]: digest for path, digest in sha256_files(unknown).items()}
        write_json(cache, known)
    return {path: known[key] for path, key in keys.items()}


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
