"""report.md: the report for pull requests and job summaries."""

from __future__ import annotations

from collections.abc import Sequence

from quantpress.language.quoting import Verbatim, code, fenced
from quantpress.language.quoting import markdown as escaped
from quantpress.report.facts.data import Report
from quantpress.report.views import engines, tables
from quantpress.report.views.captions import ABOUT, DUMMY, ONLINE, SCOREBOARD
from quantpress.report.views.engines import Elsewhere
from quantpress.report.views.tables import Measured, Scored, Table

PROVENANCE = "## How these figures were made"


def table(header: list[str], rows: Sequence[Sequence[str]], words: int = 1) -> str:
    """A Markdown table; the first `words` columns are aligned left, the rest are figures."""
    rule = ["---" if number < words else "---:" for number in range(len(header))]
    lines = [header, rule, *([_cell(cell) for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|") if isinstance(text, Verbatim) else escaped(text)


def markdown_table(made: Table) -> str:
    return table(made.header, made.rows, made.words)


def render(report: Report) -> str:
    """The whole report as Markdown."""
    model, decision = report.model, report.decision
    parts = [f"# {escaped(model.name)}: compressed for vLLM"]
    parts += [f"> **About this model:** {escaped(note)}" for note in model.notes]
    parts += ["## Which recipe", f"**{escaped(decision.headline)}**", markdown_table(tables.goals(report))]
    parts += ["\n".join(f"- {escaped(caveat)}" for caveat in decision.caveats)]
    parts += [markdown_table(tables.scoreboard(report)), SCOREBOARD]
    if report.moved:
        parts += ["## What moved", escaped(report.moved.rule), markdown_table(tables.moved(report.moved))]
    parts += ["## Accuracy", *accuracy(tables.all_scores(report))]
    compared = tables.compared_speeds(report)
    parts += ["### Served as scored", *_section(tables.served(compared), "served")]
    parts += ["## Speed in vLLM", *speed(tables.all_speeds(report))]
    if dummy := tables.with_dummy_weights(report.dummy):
        parts += ["### With dummy weights", DUMMY, markdown_table(tables.speed(dummy)), notes(dummy)]
    if report.online:
        parts += ["## What costs nothing to make", ONLINE, *_tables_online(report)]
    if elsewhere := engines.found_in(report):
        parts += ["## On other engines", *other_engines(elsewhere)]
    warnings = [
        f"- **{escaped(recipe.name)}**: {escaped(text)}" for recipe in report.recipes for text in recipe.warnings
    ]
    parts += ["## Size", markdown_table(tables.size(report)), "\n".join(warnings)]
    parts += ["## Error by layer", *_section(tables.layers(report), "layers")]
    parts += ["## Answers", *_section(tables.answers(compared), "answers")]
    parts += ["## Not measured", *_section(tables.missing(report), "missing")]
    parts += [PROVENANCE, *_provenance(report)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _tables_online(report: Report) -> list[str]:
    scored, measured = tables.online_scores(report), tables.online_speeds(report)
    parts = [markdown_table(tables.accuracy(scored))] if scored else []
    return [*parts, *([markdown_table(tables.speed(measured)), notes(measured)] if measured else [])]


def _section(made: Table, name: str) -> list[str]:
    """What the table shows and the table; where it is empty, what that means."""
    about, empty = ABOUT[name]
    return [about, markdown_table(made)] if made.rows else [empty]


def accuracy(scored: list[Scored]) -> list[str]:
    """What figures of accuracy mean, the figures, and the gates."""
    gates = tables.gates(scored)
    return [
        *_section(tables.accuracy(scored), "accuracy"),
        *not_alike(scored),
        *(["### Gates", markdown_table(gates)] if gates.rows else []),
    ]


def not_alike(scored: list[Scored]) -> list[str]:
    """What was not the same on both sides, and what is left out; nothing where there is none of it."""
    parts = []
    for title, made in (
        ("### Not asked alike: no gate passes", tables.differences(scored)),
        ("### Left out: no gate on all tasks passes", tables.left_out(scored)),
    ):
        parts += [title, markdown_table(made)] if made.rows else []
    noted = "\n".join(f"- **{escaped(name)}**: {escaped(note)}" for name, score in scored for note in score.notes)
    return [*parts, noted] if noted else parts


def speed(measured: list[Measured]) -> list[str]:
    """What figures of speed mean, the figures, and what must be known beside them."""
    return [*_section(tables.speed(measured), "speed"), notes(measured)]


def other_engines(found: list[Elsewhere]) -> list[str]:
    """Checkpoints on other engines: what the figures mean, the figures, and what moved or could not be compared."""
    lines = [f"- **{escaped(name)}**: {escaped(note)}" for name, note in engines.notes(found)]
    return [*_section(engines.table(found), "engines"), "\n".join(lines)]


def notes(measured: list[Measured]) -> str:
    return "\n".join(f"- **{escaped(name)}**: {escaped(note)}" for name, result in measured for note in result.notes)


def _provenance(report: Report) -> list[str]:
    model = report.model
    source = (
        f"- model: {escaped(model.source)}, digest {code(model.digest[:12])}\n- quantpress {escaped(report.quantpress)}"
    )
    rows = tables.commands(report).rows
    lines = [f"- {escaped(recipe)}, {escaped(what)}: {code(command)}" for recipe, what, command in rows]
    recipes = [
        f"### Recipe {escaped(recipe.name)}\n\n{fenced(recipe.resolved.strip(), 'yaml')}"
        for recipe in report.recipes
        if recipe.resolved
    ]
    return [source, markdown_table(tables.origins(report)), "### Commands", "\n".join(lines), *recipes]
