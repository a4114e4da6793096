"""Markdown and shell scripts from the templates beside this file. Every value is quoted on its way in.

A value comes from a model, a recipe, a result or the user: it must not end the text, the code or the comment that it
stands in. YAML is dumped from data instead.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from quantpress.report.views.markdown import escaped

_TEMPLATES = Path(__file__).parent / "templates"


class Verbatim(str):
    """Text that is of the template's language already, and goes in as it is."""

    __slots__ = ()


def shell(value: object) -> str:
    """A value as one word of the shell."""
    return shlex.quote(str(value))


def markdown(value: object) -> str:
    """A value as Markdown text of one line: it becomes no HTML, no link and no cell of its own."""
    return escaped(str(value))


def code(text: str) -> Verbatim:
    """Markdown: the text as code within a line, between more backticks than it has in a row itself."""
    text = " ".join(text.splitlines())
    ticks = "`" * (_longest_run(text) + 1)
    space = " " if text.startswith("`") or text.endswith("`") else ""
    return Verbatim(f"{ticks}{space}{text}{space}{ticks}")


def fenced(text: str, language: str) -> Verbatim:
    """Markdown: the lines as a block of code, which no line of theirs can close."""
    ticks = "`" * max(3, _longest_run(text) + 1)
    return Verbatim(f"{ticks}{language}\n{text}\n{ticks}")


def _longest_run(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)


def comment(text: str) -> Verbatim:
    """The text behind a `#`, in shell and YAML alike: on that line alone."""
    return Verbatim(" ".join(text.splitlines()))


def rendered(template: str, quote: Callable[[object], str], **values: Any) -> str:
    """The template's text, with every value quoted by `quote` that is not Verbatim. An undefined name is an error."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        autoescape=False,  # HTML's escaping; `finalize` does ours
        finalize=lambda value: value if isinstance(value, Verbatim) else quote(value),
        undefined=StrictUndefined,
        loader=FileSystemLoader(_TEMPLATES),
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"code": code, "fenced": fenced, "comment": comment}
    return environment.get_template(template).render(values)
