"""The report people decide by: one data structure (`collect`) and three views of it."""

from __future__ import annotations

from pathlib import Path

from quantpress.artifact.throughput import Throughput
from quantpress.report.facts import accuracy, comparable, speed
from quantpress.report.facts.fields import Data
from quantpress.report.views import markdown, tables
from quantpress.runtime import atomic

NAMES = ("report.html", "report.md", "report.json")


def write(folder: Path, data: Data) -> Path:
    """Writes the three views into the model's folder and returns the path of report.html."""
    from quantpress.report.views import page

    atomic.write_text(folder / "report.md", markdown.render(data))
    atomic.write_text(folder / "report.html", page.render(data))
    atomic.write_json(folder / "report.json", data)
    return folder / "report.html"


def accuracy_table(name: str, result: Data) -> str:
    """The result of `evaluate` or `compare` as the report would show it."""
    return markdown.of(tables.accuracy([(name, accuracy.accuracy(result))]))


def throughput_table(name: str, result: Throughput) -> str:
    """The result of `bench` as the report would show it, with what must be known beside it."""
    measured = [(name, speed.speed(result))]
    return f"{markdown.of(tables.speed(measured))}\n\n{markdown.notes(measured)}".strip()


def accuracy_section(name: str, result: Data) -> str:
    """What the figures of one evaluation mean, the figures, and its gates, as Markdown."""
    return "\n\n".join(markdown.accuracy([(name, accuracy.accuracy(result))]))


def throughput_section(results: dict[str, Throughput]) -> str:
    """What the figures of benches on one machine mean, where they were served, and the figures, as Markdown."""
    found = [(name, speed.speed(result)) for name, result in results.items()]
    return "\n\n".join([f"Served on {comparable.where(found[0][1])}.", *markdown.speed(found)]).strip()


def answers_table(name: str, result: Throughput) -> str:
    """The sample answers of one bench as Markdown."""
    return markdown.of(tables.answers({"recipes": [{"name": name, "throughput": speed.speed(result)}]}))
