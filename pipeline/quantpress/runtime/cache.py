"""Where answers, fetched models and remembered digests are kept between runs, and how a folder of it is made.

What is kept is believed by later runs, so it lies where other people's files do not: in the user's own cache folder,
never in the working folder, which may be a repository of somebody else's.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from quantpress.errors import CapabilityError
from quantpress.runtime import atomic, console, digests, locks, ownership

_RECORD = ".quantpress.json"  # in each folder that was made once: what was written into it


def cache_folder() -> Path:
    """$QUANTPRESS_CACHE, or quantpress in the user's cache folder ($XDG_CACHE_HOME, ~/.cache), made if it is missing.

    Made, it is for its owner alone. Raises CapabilityError for a folder in which other people may write.
    """
    named = os.environ.get("QUANTPRESS_CACHE")
    folder = Path(named) if named else _of_the_user()
    with suppress(OSError):  # whoever writes into it says why that cannot be done
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _require_private(folder, chosen=bool(named))
    return folder


def _of_the_user() -> Path:
    known = os.environ.get("XDG_CACHE_HOME", "")
    if Path(known).is_absolute():  # the XDG base directory specification: others are to be ignored
        return Path(known) / "quantpress"
    try:
        return Path.home() / ".cache" / "quantpress"
    except RuntimeError as error:
        raise CapabilityError(
            "there is no folder to keep answers in: this user has no home folder",
            hint="export QUANTPRESS_CACHE=/a/folder of yours",
        ) from error


def _require_private(folder: Path, chosen: bool) -> None:
    """A folder that somebody chose may be shared with a group; nobody shares one with everybody and means it."""
    about = folder.stat()
    if about.st_mode & stat.S_IWOTH or (not chosen and about.st_uid != os.getuid()):
        whose = "everybody may write into it" if about.st_mode & stat.S_IWOTH else "it belongs to somebody else"
        raise CapabilityError(
            f"{folder}: {whose}, and quantpress believes what it keeps there",
            hint=f"chmod o-w {folder}, or export QUANTPRESS_CACHE=/a/folder of yours",
        )
    if not chosen and stat.S_IMODE(about.st_mode) != 0o700:
        folder.chmod(0o700)


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
