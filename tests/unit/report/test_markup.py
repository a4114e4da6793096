"""Whatever a result says is text in the report's views, as a real reader of Markdown and HTML sees them."""

from __future__ import annotations

from typing import Any

from markdown_it import MarkdownIt

from quantpress.artifact.manifest import Manifest
from quantpress.report.facts import collect
from quantpress.report.facts.data import Report
from quantpress.report.views import markdown, page

EVIL = "`a ``` <script>alert(1)</script> <b> | [y](javascript:z)\n\n```\n<b>\n\n<script>alert(1)</script>"
# Texts by which a report finds things, or that are one of a list.
_KEYS = {"verdict", "state", "goal", "side", "weights", "decision", "workload_name", "kind", "winner", "compared"}


def spoilt(value: Any) -> Any:
    """The same data with every text that anybody could have written made evil."""
    if isinstance(value, dict):
        return {key: item if key in _KEYS else spoilt(item) for key, item in value.items()}
    if isinstance(value, list):
        return [spoilt(item) for item in value]
    return f"{value} {EVIL}" if isinstance(value, str) else value


def test_no_text_of_a_result_becomes_markup(artifacts: Any) -> None:
    folder = artifacts(1)
    model = Manifest.load(folder / "w8a8-dynamic" / "manifest.json").model
    data = collect.collect(folder, model).dump()
    decision = data["decision"]
    evil = spoilt(data)
    names = {recipe["name"]: f"{recipe['name']} {EVIL}" for recipe in data["recipes"]}
    for goal, before in zip(evil["decision"]["goals"], decision["goals"], strict=True):
        goal["winner"] = names.get(before["winner"])
    evil["decision"]["gate_states"] = {names[name]: state for name, state in decision["gate_states"].items()}
    report = Report.model_validate(evil)
    text = markdown.render(report)
    shown = MarkdownIt("commonmark", {"html": True}).enable("table").render(text)
    for view in (shown, page.render(report)):
        assert view.count("alert(1)") > 20
        for word in ("<script", "<b>", '<a href="javascript'):
            assert word not in view
