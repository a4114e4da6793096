"""Measurements in which the servers shared the machine in different ways: named, and never compared with each other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from quantpress import report
from quantpress.artifact.manifest import artifacts_of
from quantpress.artifact.throughput import Throughput
from quantpress.report.facts import changes, collect
from quantpress.report.facts.data import Report
from quantpress.report.views import markdown, tables


def paired(folder: Path, name: str, **more: Any) -> Path:
    """The result of a recipe, with what a version that knows pairings writes."""
    path = folder / name / "throughput.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | more))
    return path


def test_recipes_of_another_pairing_are_not_compared(artifacts: Any) -> None:
    folder = artifacts(3, fresh=True)
    name = sorted(path.parent.name for path in folder.glob("*/throughput.json"))[0]
    paired(folder, name, pairing="alternating")
    data = collect.collect(folder, None)
    load = data.decision.load
    assert load
    assert load.pairing == "together"  # as older files are, which name none
    assert name not in load.recipes
    said = "Measured in another pairing, so not compared (bench --pairing together makes them comparable)"
    assert f"{said}: {name}." in data.decision.caveats
    assert not any(one.startswith("Measured under another workload") for one in data.decision.caveats)
    assert all(goal.winner != name for goal in data.decision.goals if goal.goal != "memory")
    (row,) = [row for row in tables.scoreboard(data).rows if row[1] == name]
    assert row[-2:] == ["other pairing"] * 2
    text = markdown.render(data)
    assert f"- **{name}**: measured one at a time, each with all of the memory (alternating)" in text
    assert "measured side by side on one device (together)" in text
    assert f"quantpress bench {name} --workload {load.workload}" in text
    assert "--pairing alternating --fresh" in text


def test_two_workloads_of_one_name_are_two(artifacts: Any) -> None:
    """One was edited between the measurements, or had another engine."""
    folder = artifacts(3, fresh=True)
    path = sorted(folder.glob("*/throughput.json"))[0]
    name, result = path.parent.name, json.loads(path.read_text())
    result["workload"]["engine"] = {**result["workload"].get("engine", {}), "tensor_parallel_size": 4}
    path.write_text(json.dumps(result))
    data = collect.collect(folder, None)
    load = data.decision.load
    assert load
    assert name not in load.recipes
    assert f"other settings, of its engine perhaps, so not compared: {name}." in " ".join(data.decision.caveats)
    assert all(goal.winner != name for goal in data.decision.goals if goal.goal != "memory")


def test_a_package_beside_the_models_is_no_artifact(artifacts: Any, tmp_path: Path) -> None:
    folder = artifacts(1, fresh=True)
    package = folder / "mine"
    package.mkdir()
    (package / "manifest.json").write_text('{"schema_version": 1, "kind": "package"}')
    assert "mine" not in {one.name for one in artifacts_of(folder)}


def test_a_ratio_has_not_moved_because_it_was_paired_otherwise(artifacts: Any) -> None:
    folder = artifacts(1, fresh=True)
    old = collect.collect(folder, None)
    paired(folder, "w8a8-dynamic", pairing="alternating")
    moved = changes.moved_since(old, collect.collect(folder, None), "old")
    (row,) = [row for row in moved.rows if row.figure == "speed"]
    assert row.verdict == "not compared: measured otherwise"
    assert ", together, vLLM" in str(row.old)
    assert ", alternating, vLLM" in str(row.new)


def test_what_smaller_weights_make_room_for_is_said(artifacts: Any) -> None:
    folder = artifacts(2, fresh=True)
    names = sorted(path.parent.name for path in folder.glob("*/throughput.json"))
    sides = {"candidate": (300_000, 32), "baseline": (200_000, None)}
    capacity = {side: {"kv_cache_tokens": tokens, "saturates_at": at} for side, (tokens, at) in sides.items()}
    path = paired(folder, names[0], pairing="apart", capacity=capacity)
    said = report.throughput_table(names[0], Throughput.load(path))
    assert "room for 300,000 tokens of KV cache against the model's 200,000 (1.50 times)" in said
    assert "the checkpoint's server saturates at concurrency 32, the model's is not saturated" in said
    assert "the sides exchange GPUs from start to start, and there was one" in said
    data = collect.collect(folder, None)
    assert Report.model_validate(data.dump()) == data
    assert "room for" not in report.throughput_table(names[1], Throughput.load(folder / names[1] / "throughput.json"))
