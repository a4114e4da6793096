"""Text from elsewhere as it may stand in a script, a comment or Markdown: one function for each place.

A value comes from a model, a recipe, a result or the user. It must not end the word, the line, the cell or the block
that it stands in. YAML and JSON are dumped from data instead, and HTML is escaped by jinja.
"""

from __future__ import annotations

import re
import shlex

from quantpress.errors import printable
from quantpress.runtime import digests


class Verbatim(str):
    """Text that is of the language already that it goes into, and goes in as it is."""

    __slots__ = ()


def shell(value: object) -> str:
    """A value as one word of the shell."""
    return shlex.quote(str(value))


def object_name(text: str, most: int) -> str:
    """A name that Kubernetes takes: lower case, digits and dashes, a letter first, so many characters at most.

    What is longer ends in a digest: what tells two names apart may stand at the end, and one would replace the other.
    """
    name = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    name = name if name[:1].isalpha() else f"m-{name}".rstrip("-")
    return name if len(name) <= most else f"{name[: most - 7].rstrip('-')}-{digests.sha256_json(text)[:6]}"


def comment(text: str) -> Verbatim:
    """The text behind a `#`, in shell and YAML alike: on that line alone."""
    return Verbatim(_line(text))


def markdown(value: object) -> str:
    """A value as Markdown text of one line: it becomes no HTML, no link, no code and no cell of its own."""
    plain = _line(str(value))
    for letter, safe in _MARKDOWN.items():
        plain = plain.replace(letter, safe)
    return plain


# The backslash first: the others add some.
_MARKDOWN = {"\\": "\\\\", "<": "&lt;", "|": "\\|", "[": "\\[", "`": "\\`"}


def code(value: object) -> Verbatim:
    """Markdown: the text as code within a line, between more backticks than it has in a row itself."""
    text = _line(str(value)) or " "
    ticks = "`" * (_longest_run(text) + 1)
    space = " " if text.startswith("`") or text.endswith("`") else ""
    return Verbatim(f"{ticks}{space}{text}{space}{ticks}")


def fenced(text: str, language: str) -> Verbatim:
    """Markdown: the lines as a block of code, which no line of theirs can close."""
    ticks = "`" * max(3, _longest_run(text) + 1)
    return Verbatim(f"{ticks}{language}\n{printable(text)}\n{ticks}")


def _line(text: str) -> str:
    """The text on one line, with what a terminal would obey written out."""
    return printable(" ".join(text.split()))


def _longest_run(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)
