"""Where answers, fetched models and remembered digests are kept between runs, and how a folder of it is made."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from quantpress.runtime import atomic, console, digests, locks, ownership

_RECORD = ".quantpress.json"  # in each folder that was made once: what was written into it


def cache_folder() -> Path:
    """$QUANTPRESS_CACHE, or .cache/quantpress in the working folder."""
    return Path(os.environ.get("QUANTPRESS_CACHE") or ".cache/quantpress")


def digest_cache() -> Path:
    """The file of remembered digests of files."""
    return cache_folder() / "sha256.json"


def made_once(final: Path, make: Callable[[Path], None]) -> Path:
    """The folder `final`; where it is not there yet, `make` fills a staged one, and the folder appears when complete.

    Of several runs that want it at once the first one makes it, and the others wait for it. One that was changed since
    is made anew, and that is said. Raises InputError where something else stands in its place.
    """
    if not _is_whole(final):
        with locks.turn(final), atomic.staging(final) as staged:
            if not _is_whole(final):  # by another run meanwhile
                ownership.require_ours(final, _strangers, f"move {final} away")
                if final.exists():
                    console.say(f"  {final} was changed since it was made: it is made anew")
                make(staged)
                _record(staged)
                atomic.publish(staged, final, _strangers)
    return final.resolve()


def _strangers(folder: Path) -> list[str]:
    return ownership.strangers_beside(folder, _RECORD)


def _record(folder: Path) -> None:
    """Lists the folder's files with their sizes and digests; of a link only that it is one."""
    names = ownership.entries(folder)
    known = digests.sha256_files([folder / name for name in names if ownership.is_regular(folder / name)])
    files = {name: _fact(folder / name, known.get(folder / name)) for name in names}
    atomic.write_json(folder / _RECORD, {"files": files})


def _fact(path: Path, digest: str | None) -> dict[str, object]:
    state = path.lstat()
    return {"bytes": state.st_size, "mtime_ns": state.st_mtime_ns, "sha256": digest}


def _is_whole(final: Path) -> bool:
    """Whether the folder is there as it was made; one without a record (a bundle's, an older version's) is believed.

    Only a file that was touched is read again.
    """
    if not final.is_dir():
        return False
    if not (final / _RECORD).exists():
        return True
    files = ownership.mark_in(final / _RECORD).get("files")
    return isinstance(files, dict) and all(_is_as_made(final / name, fact) for name, fact in files.items())


def _is_as_made(path: Path, fact: dict[str, object]) -> bool:
    try:
        state = path.lstat()
        if state.st_size != fact["bytes"]:
            return False
        if state.st_mtime_ns == fact["mtime_ns"] or fact["sha256"] is None:
            return True
        return ownership.is_regular(path) and digests.sha256_file(path) == fact["sha256"]
    except (OSError, LookupError, TypeError):
        return False
