"""The table of checkpoints on other engines than the one that they were measured on."""

from __future__ import annotations

from quantpress.artifact.recertification import SpeedPair
from quantpress.report.facts.data import OtherEngine, Report
from quantpress.report.views.formats import NONE, interval
from quantpress.report.views.tables import Table

Elsewhere = tuple[str, OtherEngine]  # with the recipe's name


def found_in(report: Report) -> list[Elsewhere]:
    """Every checkpoint on every other engine that it was held against its record on."""
    return [(recipe.name, one) for recipe in report.recipes for one in recipe.other_engines]


def table(found: list[Elsewhere]) -> Table:
    """One row for each checkpoint and other engine."""
    header = ["recipe", "vLLM", "verdict", "gates", "signed", "same answers", "likelihoods (95%)", "accuracy (95%)"]
    rows = []
    for name, one in found:
        row = [name, f"{one.before or 'unknown'} → {one.after}", one.verdict, _gates_again(one)]
        row += ["yes" if one.signed else "no", f"{one.answers[0]} of {one.answers[1]}" if one.answers[1] else NONE]
        row.append(interval(one.likelihoods, "{:+.4f}"))
        changes = [f"{suite.suite} {interval(suite.difference, '{:+.3f}')}" for suite in one.accuracy]
        row.append("; ".join(changes) or NONE)
        flips = "; ".join(interval(suite.flips, "{:.1%}") for suite in one.accuracy) or NONE
        rows.append([*row, flips, "; ".join(map(_speed_pair, one.speeds)) or NONE])
    return Table([*header, "flips", "speed"], rows, 5)


def _gates_again(one: OtherEngine) -> str:
    lost = [f"{gate.after.gate} {gate.after.decision}" for gate in one.gates if gate.lost]
    if lost:
        return f"no longer: {', '.join(lost)}"
    kept = sum(gate.after.decision == "pass" for gate in one.gates)
    return f"{kept} of {len(one.gates)} passed" if one.gates else "none"


def _speed_pair(row: SpeedPair) -> str:
    sides = [NONE if value is None else f"{value:.3g}" for value in (row.before, row.after)]
    edges = f", {row.ratio:.2f} ({row.interval[0]:.2f} to {row.interval[1]:.2f})" if row.ratio and row.interval else ""
    return f"{row.figure}: {sides[0]} → {sides[1]}{edges}: {row.verdict}"


def notes(found: list[Elsewhere]) -> list[tuple[str, str]]:
    """What moved, and what could not be compared, each with its recipe."""
    return [
        (name, f"{word} on vLLM {one.after}: {line}")
        for name, one in found
        for word, lines in (("moved", one.moved), ("not compared", one.unknown))
        for line in lines
    ]
