"""What the head of a model card (README.md) says: YAML of others, read within bounds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from quantpress.errors import InputError, first_line
from quantpress.language.document import Mark, parse
from quantpress.runtime import console
from quantpress.runtime.time_limit import time_limit

_LARGEST_HEAD = 2**18  # characters of a card in which its metadata must end
_HEAD_S = 10.0  # seconds for reading it


def metadata_of(path: Path) -> dict[str, Any]:
    """The metadata at the head of a model card; nothing where there is none or it cannot be read, which is said."""
    if not path.is_file():
        return {}
    try:
        with path.open(encoding="utf-8") as stream:
            head = _front_matter(stream.read(_LARGEST_HEAD))
        with time_limit(_HEAD_S):
            found = _metadata(path, head) if head else None
    except (OSError, ValueError, InputError, TimeoutError) as error:
        console.warn(f"{path}: its head cannot be read ({first_line(error)}), so what it says counts as not stated")
        return {}
    return found if isinstance(found, dict) else {}


def _metadata(path: Path, head: str) -> Any:
    """What the YAML says, without aliases and other values that nobody needs there."""
    document = parse(path, head, "", lambda _: Mark(str(path)))
    if document.data is None and document.problems:
        raise InputError(document.problems[0].message)
    return document.data


def _front_matter(text: str) -> str | None:
    """The YAML between the first line, which is three dashes, and the next such line."""
    first, *lines = text.split("\n")
    if first.rstrip() != "---":
        return None
    end = next((number for number, line in enumerate(lines) if line.rstrip() == "---"), None)
    if end is None:
        raise InputError(f"it does not end within {_LARGEST_HEAD >> 10} KiB")
    return "\n".join(lines[:end])
