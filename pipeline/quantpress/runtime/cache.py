"""Where answers, fetched models and remembered digests are kept between runs, and how a folder of it is made."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from quantpress.runtime import atomic, locks


def cache_folder() -> Path:
    """$QUANTPRESS_CACHE, or .cache/quantpress in the working folder."""
    return Path(os.environ.get("QUANTPRESS_CACHE") or ".cache/quantpress")


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
