"""JSON lines that people bring, read one at a time: whatever is wrong is said with its file and its line."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from quantpress.errors import InputError
from quantpress.runtime.foreign import require_shallow

_LONGEST = 256 * 2**20  # bytes of a line; a file without line feeds would otherwise be read into memory whole
_ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def json_lines(path: Path, hint: str, what: str = "") -> Iterator[tuple[int, Any]]:
    """The values of a JSONL file with the numbers of their lines, from 1; empty lines are passed over.

    Only a line feed ends a line: U+2028, U+2029 and U+0085 stand in texts. The file is UTF-8, with or without a byte
    order mark. `what` comes before the file's name in messages. Raises InputError with the line of what is not JSON.
    """
    for number, line in _lines(path, hint, what):
        if text := line.strip(" \t\r\n"):
            yield number, parsed(text, f"{what}{path}:{number}", hint)


def _lines(path: Path, hint: str, what: str) -> Iterator[tuple[int, str]]:
    try:
        with path.open("rb") as stream:
            number = 0
            while raw := stream.readline(_LONGEST + 1):
                number += 1
                if len(raw) > _LONGEST:
                    raise InputError(
                        f"{what}{path}:{number}: the line is longer than {_LONGEST >> 20} MiB", hint="one object a line"
                    )
                if number == 1:
                    raw = raw.removeprefix(codecs.BOM_UTF8)
                yield number, _decoded(raw, f"{what}{path}:{number}", hint)
    except OSError as error:
        raise InputError(f"{what}{path} cannot be read: {error.strerror}", hint=hint) from error


def _decoded(raw: bytes, where: str, hint: str) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{where}: not UTF-8: {error.reason}, {raw[error.start]:#04x} at byte {error.start + 1} of the line",
            hint=f"save the file as UTF-8; {hint}",
        ) from error


def parsed(text: str, where: str, hint: str) -> Any:
    """The JSON value of a text. Raises InputError, with `where` it stands, for what is not JSON or no text."""
    try:
        value = json.loads(text, parse_constant=_refused)
        require_shallow(value, text)
    except json.JSONDecodeError as error:
        place = f"{where}:{error.lineno}" if "\n" in text else where
        raise InputError(f"{place}: not JSON: {error.msg} (column {error.colno})", hint=hint) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not JSON: {error}", hint=hint) from error
    if _ESCAPED_SURROGATE.search(text):
        _require_characters(value, where, hint)
    return value


def _refused(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON's")


def _require_characters(value: Any, where: str, hint: str) -> None:
    """JSON can escape half of a surrogate pair, which is no character: no tokenizer takes it."""
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        half = f"\\u{ord(error.object[error.start]):04x}"
        raise InputError(f"{where}: {half} is half of a character (a surrogate without its pair)", hint=hint) from error
