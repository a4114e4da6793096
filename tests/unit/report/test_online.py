"""What costs nothing to make stands beside the recipes, and is held against who wins."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from quantpress.artifact import online
from quantpress.report.facts import beaten, collect
from quantpress.report.facts.data import Report
from quantpress.report.views import markdown, page

METHOD = "fp8_per_channel"


def put(folder: Path, faster: float = 1.0, **more: Any) -> None:
    """The result of the first recipe, as if it were of the model quantized while it loads and so many times as fast."""
    first = min(folder.glob("*/throughput.json")).parent
    model = json.loads((first / "manifest.json").read_text())["model"]["digest"]
    there = online.folder_of(folder, METHOD)
    there.mkdir(parents=True)
    for stage in ("throughput", "accuracy"):
        result = json.loads((first / f"{stage}.json").read_text())
        result["checkpoint_digest"] = online.digest_of(model, METHOD)
        if stage == "accuracy":
            result["gates"] = []
        else:
            for cell in result["cells"]:
                if cell["role"] == "candidate":
                    cell["figures"]["output_throughput"] *= faster
            result |= more
        (there / f"{stage}.json").write_text(json.dumps(result))


def test_it_is_shown_beside_the_recipes_and_wins_nothing(artifacts: Any) -> None:
    folder = artifacts(3, fresh=True)
    without = collect.collect(folder, None)
    put(folder, faster=100.0)
    data = collect.collect(folder, None)
    assert [one.name for one in data.online] == ["online-fp8_per_channel"]
    assert [recipe.name for recipe in data.recipes] == [recipe.name for recipe in without.recipes]
    assert [goal.winner for goal in data.decision.goals] == [goal.winner for goal in without.decision.goals]
    assert Report.model_validate(data.dump()) == data
    for text in (markdown.render(data), page.render(data)):
        assert "What costs nothing to make" in text
        assert "online-fp8_per_channel" in text
    assert without.online == []
    assert "What costs nothing" not in markdown.render(without)


@pytest.mark.parametrize(("faster", "beats"), [(100.0, "not shown to beat it"), (0.001, "is shown to beat it")])
def test_a_winner_beats_it_or_does_not(artifacts: Any, faster: float, beats: str) -> None:
    folder = artifacts(12, fresh=True)
    put(folder, faster)
    data = collect.collect(folder, None)
    (goal,) = [goal for goal in data.decision.goals if goal.goal == "throughput"]
    assert goal.winner
    (said,) = [one for one in data.decision.caveats if "costs nothing" in one and "output tokens/s" in one]
    assert f"; {goal.winner} is " in said
    assert beats in said


@pytest.mark.parametrize("disturbed", [True, False], ids=["other programs ran", "one pair"])
def test_what_is_not_to_be_trusted_is_no_speed_to_be_beaten(artifacts: Any, disturbed: bool) -> None:
    """As a real run on a busy machine said it: 3.88 times as fast, by one pair beside other programs."""
    folder = artifacts(12, fresh=True)
    put(folder, faster=0.001)
    path = online.folder_of(folder, METHOD) / "throughput.json"
    result = json.loads(path.read_text())
    if disturbed:
        for cell in result["cells"]:
            cell["untrustworthy"] = ["other programs took 86% of the cores"]
    else:
        result["cells"] = [cell for cell in result["cells"] if cell["round"] == 0]
    path.write_text(json.dumps(result))
    data = collect.collect(folder, None)
    said = beaten.caveats(data.online, data.decision.goals, data.decision.load)
    assert said
    why = "untrustworthy: " if disturbed else "no verdict: 1 pair"
    assert all("is not known in " in one and why in one for one in said), said
    assert not any("beat it" in one or "times as fast" in one for one in said)


def test_measured_otherwise_it_is_not_compared(artifacts: Any) -> None:
    folder = artifacts(2, fresh=True)
    put(folder, pairing="alternating")
    data = collect.collect(folder, None)
    assert beaten.caveats(data.online, data.decision.goals, data.decision.load) == [
        "online-fp8_per_channel, which costs nothing to make, was measured otherwise than the recipes, so not compared."
    ]


def test_of_another_model_of_this_name_nothing_is_shown(artifacts: Any) -> None:
    folder = artifacts(2, fresh=True)
    put(folder)
    for path in online.folder_of(folder, METHOD).glob("*.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"checkpoint_digest": "another"}))
    assert collect.collect(folder, None).online == []
