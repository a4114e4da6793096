"""report.html: one file without scripts that opens offline. What it shows comes from elsewhere, so all is escaped."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

from quantpress.report.facts.fields import Data
from quantpress.report.views import plots, tables
from quantpress.report.views.captions import ABOUT, DUMMY, SCOREBOARD

_HERE = Path(__file__).parent
_GOALS = {
    "latency": "Latency: one user, time per token",
    "throughput": "Throughput: many users, tokens/s",
    "memory": "Memory: bytes of the weights",
}
_STATES = {
    "shown": "shown to be ahead",
    "not shown": "no gain shown",
    "not measured": "not measured",
    "no candidate": "none passed",
}
_GATES = {
    "passed": "passed",
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


def render(data: Data) -> str:
    """The whole report as one HTML file."""
    shared = {"tables": tables, "about": ABOUT, "contents": _CONTENTS, **style()}
    words = {
        "goal_titles": _GOALS,
        "state_words": _STATES,
        "gate_words": _GATES,
        "chips": {*_GATES, "pass", "fail", "transformers only", "as scored", "not as scored"},
    }
    helpers = {"answer": tables.answer, "measured": tables.measured, "loss": tables.loss}
    template = environment().get_template("report.html.jinja")
    return str(template.render(data=data, **shared, **words, **helpers, **_sections(data)))


def _sections(data: Data) -> dict[str, Any]:
    """What the template lays out: tables that may be empty, and drawings."""
    named = [(recipe["name"], recipe) for recipe in data["recipes"]]
    scored = tables.all_scores(data)
    drawings = {
        "tasks": plots.tasks(data),
        "distances": plots.distances(data),
        "curves": plots.curves(data),
        "sizes": plots.sizes(data),
    }
    return {
        "decision": data["decision"],
        "dummy": [(one["name"], one["throughput"]) for one in data["dummy"]],
        "dummy_words": DUMMY,
        "scoreboard_words": SCOREBOARD,
        "recipes": dict(named),
        "scored": scored,
        "measured_speed": tables.all_speeds(data),
        "gates": tables.gates(scored),
        "served": tables.served(data),
        "answers": tables.answers(data),
        "missing": tables.missing(data),
        "commands": tables.commands(data).rows,
        "moved": tables.moved(data["moved"]) if data.get("moved") else None,
        "pareto": plots.pareto(data),
        "layer_plot": plots.layer_errors(data),
        "drawn": drawings,
    }
