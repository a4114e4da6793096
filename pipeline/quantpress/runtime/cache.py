"""Where answers, fetched models and remembered digests are kept between runs."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """$QUANTPRESS_CACHE, or .cache/quantpress in the working folder."""
    return Path(os.environ.get("QUANTPRESS_CACHE") or ".cache/quantpress")


def digest_cache() -> Path:
    """The file of remembered digests of files."""
    return cache_folder() / "sha256.json"
