"""report.md: the report for pull requests and job summaries."""

from __future__ import annotations

import re

from quantpress.report.facts.fields import Data
from quantpress.report.views import tables
from quantpress.report.views.captions import ABOUT, DUMMY, SCOREBOARD
from quantpress.report.views.tables import Table

PROVENANCE = "## How these figures were made"


def table(header: list[str], rows: list[list[str]], words: int = 1) -> str:
    """A Markdown table; the first `words` columns are aligned left, the rest are figures."""
    rule = ["---" if number < words else "---:" for number in range(len(header))]
    lines = [header, rule, *([_cell(cell) for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(text: str) -> str:
    """Text that may come from a model: it must neither end the cell nor become HTML or a link."""
    plain = " ".join(text.split())
    return plain.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("[", "\\[")


def of(made: Table) -> str:
    return table(made.header, made.rows, made.words)


def render(data: Data) -> str:
    """The whole report as Markdown."""
    model, decision = data["model"], data["decision"]
    parts = [f"# {_cell(model['name'])}: compressed for vLLM"]
    parts += [f"> **About this model:** {_cell(note)}" for note in model["notes"]]
    parts += ["## Which recipe", f"**{_cell(decision['headline'])}**", of(tables.goals(data))]
    parts += [
        "\n".join(f"- {_cell(caveat)}" for caveat in decision["caveats"]),
        of(tables.scoreboard(data)),
        SCOREBOARD,
    ]
    parts += _moved(data)
    parts += [
        "## Accuracy",
        *_accuracy(data),
        "### Served as scored",
        *_section(tables.served(data), "served"),
        "## Speed in vLLM",
        *_speed(data),
        "## Size",
        of(tables.size(data)),
        *_warnings(data),
    ]
    parts += ["## Error by layer", *_section(tables.layers(data), "layers")]
    parts += ["## Answers", *_section(tables.answers(data), "answers")]
    parts += ["## Not measured", *_section(tables.missing(data), "missing")]
    parts += [PROVENANCE, *provenance(data)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _section(made: Table, name: str) -> list[str]:
    """What the table shows and the table; where it is empty, what that means."""
    about, empty = ABOUT[name]
    return [about, of(made)] if made.rows else [empty]


def _moved(data: Data) -> list[str]:
    if not data.get("moved"):
        return []
    return ["## What moved", data["moved"]["rule"], of(tables.moved(data["moved"]))]


def _accuracy(data: Data) -> list[str]:
    return accuracy(tables.all_scores(data))


def accuracy(scored: list[tuple[str, Data]]) -> list[str]:
    made = tables.gates(scored)
    return _section(tables.accuracy(scored), "accuracy") + (["### Gates", of(made)] if made.rows else [])


def _speed(data: Data) -> list[str]:
    parts = speed(tables.all_speeds(data))
    dummy = [(one["name"], one["throughput"]) for one in data["dummy"]]
    return parts + (["### With dummy weights", DUMMY, of(tables.speed(dummy)), notes(dummy)] if dummy else [])


def speed(measured: list[tuple[str, Data]]) -> list[str]:
    return [*_section(tables.speed(measured), "speed"), notes(measured)]


def notes(measured: list[tuple[str, Data]]) -> str:
    return "\n".join(f"- **{_cell(name)}**: {_cell(note)}" for name, result in measured for note in result["notes"])


def _warnings(data: Data) -> list[str]:
    lines = [f"- **{recipe['name']}**: {_cell(text)}" for recipe in data["recipes"] for text in recipe["warnings"]]
    return ["\n".join(lines)] if lines else []


def provenance(data: Data) -> list[str]:
    model = data["model"]
    source = f"- model: {_cell(model['source'])}, digest `{model['digest'][:12]}`\n- quantpress {data['quantpress']}"
    lines = [f"- {recipe}, {what}: `{command}`" for recipe, what, command in tables.commands(data).rows]
    recipes = [_resolved(one["name"], one["resolved"]) for one in data["recipes"] if one["resolved"]]
    return [source, of(tables.origins(data)), "### Commands", "\n".join(lines), *recipes]


def _resolved(name: str, text: str) -> str:
    """The recipe in a fence that is longer than any in it."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"### Recipe {name}\n\n{fence}yaml\n{text.strip()}\n{fence}"
