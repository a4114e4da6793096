"""The index of several models' reports: index.html and index.md in the artifacts' root folder."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

from quantpress.report.facts.data import Report
from quantpress.report.views import markdown
from quantpress.report.views.page import environment, style
from quantpress.runtime import atomic


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
    atomic.write_text(out / "index.md", f"# Compressed for vLLM\n\n{markdown.table(header, lines, len(header))}\n")
    atomic.write_text(out / "index.html", environment().get_template("index.html.jinja").render(rows=rows, **style()))
