"""The report people decide by: one data structure (`collect`) and three views of it."""

from __future__ import annotations

from pathlib import Path

from quantpress import files
from quantpress.report import accuracy, markdown, speed, tables
from quantpress.report.fields import Data

NAMES = ("report.html", "report.md", "report.json")


def write(folder: Path, data: Data) -> Path:
    """Writes the three views into the model's folder and returns the path of report.html."""
    from quantpress.report import page

    files.write_text(folder / "report.md", markdown.render(data))
    files.write_text(folder / "report.html", page.render(data))
    files.write_json(folder / "report.json", data)
    return folder / "report.html"


def accuracy_table(name: str, result: Data) -> str:
    """The result of `evaluate` or `compare` as the report would show it."""
    return markdown.of(tables.accuracy([(name, accuracy.accuracy(result))]))


def throughput_table(name: str, result: Data) -> str:
    """The result of `bench` as the report would show it."""
    return markdown.of(tables.speed([(name, speed.speed(result))]))
