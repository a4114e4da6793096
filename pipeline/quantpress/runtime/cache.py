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
from quantpress.runtime import atomic, locks


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

    Of several runs that want it at once the first one makes it, and the others wait for it.
    """
    if not final.is_dir():
        with locks.turn(final), atomic.staging(final) as staged:
            if not final.is_dir():  # by another run meanwhile
                make(staged)
                atomic.publish(staged, final)
    return final.resolve()
