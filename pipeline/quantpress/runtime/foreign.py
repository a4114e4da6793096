"""JSON of others, read within bounds: no file fills the memory, and no depth that our own code could not follow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

LARGEST = 256 * 2**20  # bytes; the index of a model of 100,000 tensors has about 15 MB
DEEPEST = 100  # levels; configs and results of lm-eval have about ten


def read_json(path: Path) -> Any:
    """What a JSON file holds. Raises ValueError for what is none, too large or too deep, OSError for no file."""
    if not path.is_file():
        raise FileNotFoundError(f"no regular file {path}")
    with path.open("rb") as stream:
        raw = stream.read(LARGEST + 1)
    if len(raw) > LARGEST:
        raise ValueError(f"more than {LARGEST >> 20} MiB")
    return parsed(raw.decode("utf-8"))


def parsed(text: str) -> Any:
    """The value of a JSON text. Raises ValueError for what is none, or nested too deeply."""
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    require_shallow(value, text)
    return value


def require_shallow(value: Any, text: str) -> None:
    """Raises ValueError for a value, read from this text, that is nested too deeply."""
    if text.count("[") + text.count("{") <= DEEPEST:
        return
    level = [value]  # level by level, for what is too deep cannot be followed by calls
    for _ in range(DEEPEST):
        level = [
            item
            for one in level
            if isinstance(one, dict | list)
            for item in (one.values() if isinstance(one, dict) else one)
            if isinstance(item, dict | list)
        ]
        if not level:
            return
    raise ValueError(f"nested more than {DEEPEST} levels deep")
