"""The index of several models' reports: index.html and index.md in the artifacts' root folder."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote

from quantpress.errors import InputError
from quantpress.report.facts.data import Report
from quantpress.report.views import markdown
from quantpress.report.views.page import environment, style
from quantpress.runtime import atomic, ownership

TITLE = "Compressed for vLLM"


def require_ours(out: Path) -> None:
    """Raises InputError if one of the two files is there and is not ours: both begin with their title."""
    for path in (out / "index.html", out / "index.md"):
        if not os.path.lexists(path):
            continue
        if not ownership.is_regular(path) or TITLE.encode() not in _beginning(path):
            raise InputError(f"{path} was not written by quantpress", hint="move it away, or name another --out")


def _beginning(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(1000)


def write(out: Path, made: list[tuple[Path, Report]]) -> None:
    """One line a model: what to deploy, and where its report is."""
    rows = [
        {
            "model": report.model.name,
            "headline": report.decision.headline,
            "recipes": len(report.recipes),
            "href": quote(folder.name),
        }
        for folder, report in made
    ]
    header = ["model", "recipes", "in short", "report"]
    lines = [[str(row["model"]), str(row["recipes"]), str(row["headline"]), f"{row['href']}/report.md"] for row in rows]
    atomic.write_text(out / "index.md", f"# {TITLE}\n\n{markdown.table(header, lines, len(header))}\n")
    template = environment().get_template("index.html.jinja")
    atomic.write_text(out / "index.html", template.render(rows=rows, title=TITLE, **style()))
