"""Markdown and shell scripts from the templates beside this file. Every value is quoted on its way in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from quantpress.language.quoting import Verbatim, code, comment, fenced

_TEMPLATES = Path(__file__).parent / "templates"


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
