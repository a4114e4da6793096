"""One document over another, and `--set key=value` (or another such option) over a document."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from quantpress.errors import InputError
from quantpress.language.document import Document, Loc, Mark, parse


def merge(base: Document, other: Document) -> None:
    """Puts `other` over `base`: mappings key by key, everything else replaced whole."""
    base.problems += other.problems
    _merge(base, other, ())


def _merge(base: Document, other: Document, loc: Loc) -> None:
    ours, theirs = base.part(loc).data, other.part(loc).data
    for key, value in theirs.items():
        if isinstance(value, dict) and isinstance(ours.get(key), dict):
            _merge(base, other, (*loc, key))
        else:
            base.put((*loc, key), other.part((*loc, key)))


def override(
    document: Document, settings: Sequence[str], option: str = "--set", example: str = "calibration.samples=64"
) -> None:
    """Applies `a.b=value` items of an option to the data; the value is read as YAML, under the same rules as a file.

    Raises InputError if an item is malformed; a value that is not allowed becomes a problem of the document.
    """
    for item in settings:
        path, separator, text = item.partition("=")
        parts = path.split(".")
        if not separator or not all(parts):
            raise InputError(f"{option} {item!r} is not KEY.KEY=VALUE", hint=f"for example {option} {example}")
        value = _parse_option(f"{option} {path}", text)
        if value.problems:
            document.problems += value.problems
            continue
        put_at(document, parts, value, f"{option} {item!r}")


def _parse_option(option: str, text: str) -> Document:
    return parse(Path(option), text, "quote it for the shell", lambda _: Mark(option))


def put_at(document: Document, parts: Sequence[str], value: Document, what: str) -> None:
    """Puts `value` at a dotted path; mappings on the way are made. `what` names the setting in errors."""
    data: Any = document.data
    loc: Loc = ()
    for part in parts[:-1]:
        key: str | int = part
        if isinstance(data, list) and part.isdecimal() and len(part) < 5 and int(part) < len(data):
            key = int(part)
        elif isinstance(data, dict):
            data.setdefault(part, {})
        else:
            raise InputError(f"{what}: there is nothing at {part!r} to set", hint="look at the keys that there are")
        data, loc = data[key], (*loc, key)
    if not isinstance(data, dict):
        raise InputError(f"{what}: there are no keys to set", hint="look at the keys that there are")
    document.put((*loc, parts[-1]), value)
