"""report.html: one file without scripts that opens offline. What it shows comes from elsewhere, so all is escaped."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

from quantpress.report.facts.data import Decision, Report
from quantpress.report.views import engines, plots, tables
from quantpress.report.views.captions import ABOUT, DUMMY, ONLINE, SCOREBOARD

_HERE = Path(__file__).parent
_GOALS = {
    "latency": "Latency: one user, time per token",
    "throughput": "Throughput: many users, tokens/s",
    "memory": "Memory: bytes of the weights",
}
_STATES = {
    "shown": "beats the unquantized model",
    "not shown": "no gain shown",
    "not measured": "not measured",
    "no candidate": "no candidate",
}
_GATES = {
    "passed": "passed",
    "not quite passed": "not quite passed",
    "passed for transformers only": "passed for transformers only",
    "failed": "failed",
    "inconclusive": "inconclusive",
    "no gate": "not set",
    "not scored": "not scored",
}
_CONTENTS = (
    ("tradeoff", "Trade-off"),
    ("accuracy", "Accuracy"),
    ("speed", "Speed"),
    ("size", "Size"),
    ("layers", "Error by layer"),
    ("answers", "Answers"),
    ("missing", "Not measured"),
    ("origins", "How it was made"),
)


def environment() -> Any:
    """Jinja with everything escaped and no undefined name let through."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(_HERE)
    return Environment(autoescape=True, undefined=StrictUndefined, loader=loader, trim_blocks=True)


def style() -> dict[str, str]:
    """The style sheet, and the digest by which the page's Content-Security-Policy lets it alone through."""
    text = (_HERE / "report.css").read_text(encoding="utf-8")
    return {"style": text, "style_digest": base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}


def render(report: Report) -> str:
    """The whole report as one HTML file."""
    words = {
        "about": ABOUT,
        "contents": _CONTENTS,
        "goal_titles": _GOALS,
        "state_words": _STATES | ({"no candidate": "none passed"} if _none_passed(report.decision) else {}),
        "gate_words": _GATES,
        "chips": {"holds", "moved", *_GATES, "pass", "fail", "transformers only", "as scored", "not as scored"},
        "dummy_words": DUMMY,
        "online_words": ONLINE,
        "scoreboard_words": SCOREBOARD,
    }
    template = environment().get_template("report.html.jinja")
    return str(template.render(report=report, tables=tables, **style(), **words, **_laid_out(report)))


def _none_passed(decision: Decision) -> bool:
    """Whether gates are why a goal has no candidate: recipes that passed may be no smaller, or not measured."""
    return decision.gated and "passed" not in decision.gate_states.values()


def _laid_out(report: Report) -> dict[str, Any]:
    """What the template lays out beside the report itself: tables that may be empty, and drawings."""
    scored, compared = tables.all_scores(report), tables.compared_speeds(report)
    elsewhere = engines.found_in(report)
    return {
        "decision": report.decision,
        "recipes": {recipe.name: recipe for recipe in report.recipes},
        "dummy": tables.with_dummy_weights(report.dummy),
        "online_scored": tables.online_scores(report),
        "online_measured": tables.online_speeds(report),
        "scored": scored,
        "measured_speed": tables.all_speeds(report),
        "gates": tables.gates(scored),
        "unlike": tables.differences(scored),
        "left_out": tables.left_out(scored),
        "served": tables.served(compared),
        "answers": tables.answers(compared),
        "missing": tables.missing(report),
        "commands": tables.commands(report).rows,
        "engines": engines.table(elsewhere),
        "engine_notes": engines.notes(elsewhere),
        "moved": tables.moved(report.moved) if report.moved else None,
        "pareto": plots.pareto(report),
        "layer_plot": plots.layer_errors(report),
        "drawn": {
            "tasks": plots.tasks(report),
            "distances": plots.distances(report),
            "curves": plots.curves(report),
            "sizes": plots.sizes(report),
        },
    }
