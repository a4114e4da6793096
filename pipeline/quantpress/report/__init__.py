"""The report people decide by: one data structure (`facts.data.Report`) and three views of it."""

from __future__ import annotations

from pathlib import Path

from quantpress.artifact.accuracy import Accuracy, Comparison
from quantpress.artifact.recertification import Recertification
from quantpress.artifact.throughput import Throughput
from quantpress.language.quoting import markdown as escaped
from quantpress.report.facts.accuracy import score_of
from quantpress.report.facts.data import Report
from quantpress.report.facts.other_engines import other_engine
from quantpress.report.facts.speed import speed_of
from quantpress.report.views import markdown, tables
from quantpress.runtime import atomic

NAMES = ("report.html", "report.md", "report.json")


def write(folder: Path, report: Report) -> Path:
    """Writes the three views into the model's folder and returns the path of report.html."""
    from quantpress.report.views import page

    atomic.write_text(folder / "report.md", markdown.render(report))
    atomic.write_text(folder / "report.html", page.render(report))
    report.save(folder / "report.json")
    return folder / "report.html"


def accuracy_table(name: str, result: Comparison) -> str:
    """The result of `evaluate` or `compare` as the report would show it."""
    scored = [(name, score_of(result))]
    return "\n\n".join([markdown.markdown_table(tables.accuracy(scored)), *markdown.not_alike(scored)])


def throughput_table(name: str, result: Throughput) -> str:
    """The result of `bench` as the report would show it, with what must be known beside it."""
    measured = [(name, speed_of(result))]
    return f"{markdown.markdown_table(tables.speed(measured))}\n\n{markdown.notes(measured)}".strip()


def accuracy_section(name: str, result: Accuracy) -> str:
    """What the figures of one evaluation mean, the figures, and its gates, as Markdown."""
    return "\n\n".join(markdown.accuracy([(name, score_of(result))]))


def throughput_section(results: dict[str, Throughput]) -> str:
    """What the figures of benches on one machine mean, where they were served, and the figures, as Markdown."""
    measured = [(name, speed_of(result)) for name, result in results.items()]
    return "\n\n".join([f"Served on {escaped(measured[0][1].served_on)}.", *markdown.speed(measured)]).strip()


def recertification_text(name: str, folder: Path, made: Recertification) -> str:
    """What `recertify` found, as the report would show it."""
    return "\n\n".join([*markdown.other_engines([(name, other_engine(folder, made))]), str(folder)])


def answers_table(name: str, result: Throughput) -> str:
    """The sample answers of one bench as Markdown."""
    return markdown.markdown_table(tables.answers([(name, speed_of(result))]))
