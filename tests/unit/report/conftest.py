"""Artifacts for reports: one small real result (data/, the smoke suite and workload on two CPU cores), and more
made of it by other figures. The made-up ones are test data and say nothing about any recipe; their report says so."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Results = dict[str, Any]
DATA = Path(__file__).parent / "data"
NAMES = ["awq-gptq-w4a16", "awq-w4a16", "fp8-block", "fp8-dynamic", "gptq-w4a16", "gptq-w4a16-asym", "kv-fp8"]
NAMES += ["mixed-w4-w8", "nvfp4", "rtn-w4a16", "smoothquant-gptq-w8a8", "w8a8-dynamic"]
NOTE = "Test data: made from one small real result by changing its figures; says nothing about any recipe."
Build = Callable[..., Path]


def real() -> dict[str, Results]:
    return {path.stem: json.loads(path.read_text()) for path in DATA.glob("*.json")}


def varied(name: str, chance: random.Random, rounds: int = 4) -> dict[str, Results]:
    """The real result with other figures, consistent enough to be drawn."""
    from quantpress.artifact.accuracy import Accuracy
    from quantpress_evaluate.comparison import gates

    found = copy.deepcopy(real())
    manifest, accuracy, throughput = found["manifest"], found["accuracy"], found["throughput"]
    manifest["recipe"]["name"], manifest["digest"] = name, f"{chance.getrandbits(256):064x}"
    manifest["model"]["notes"] = [NOTE]
    manifest["bytes"]["checkpoint"] = int(manifest["bytes"]["model"] * chance.choice([0.42, 0.43, 0.6, 0.61]))
    accuracy["checkpoint_digest"] = throughput["checkpoint_digest"] = manifest["digest"]
    loss, floor = chance.uniform(-0.02, 0.12), chance.uniform(0.01, 0.3)
    for row in [accuracy["overall"], *accuracy["tasks"].values()]:
        middle, width = 1 - loss + chance.uniform(-0.03, 0.03), chance.uniform(0.01, 0.05)
        row |= {"recovery": middle, "recovery_interval": [middle - width, middle + width]}
        row |= {"kl": floor, "kl_interval": [floor * 0.7, floor * 1.4]}
    gate = gates.parse("recovery>=0.95")
    del accuracy["schema_version"]
    scored = Accuracy.model_validate(accuracy)
    decided = gates.decide(gate, scored).model_copy(update={"confidence": 0.95, "documents": 192, "look": 1})
    found["accuracy"] = scored.model_copy(update={"gates": [decided]}).as_saved()
    _vary_speed(throughput, chance, rounds)
    return found


def _vary_speed(throughput: Results, chance: random.Random, rounds: int) -> None:
    from quantpress.artifact.speed import summarize
    from quantpress.artifact.throughput import Cell

    pace, old, cells = chance.uniform(0.7, 1.6), throughput["cells"], []
    for concurrency in (1, 4, 8, 32):
        for number in range(rounds):
            for role in ("baseline", "candidate"):
                cell = copy.deepcopy(next(one for one in old if one["role"] == role))
                faster = concurrency**0.7 * (pace if role == "candidate" else 1) * chance.uniform(0.97, 1.03)
                for key, value in cell["figures"].items():
                    if key.endswith("throughput"):
                        cell["figures"][key] = value * faster
                    elif key.endswith("_ms"):
                        cell["figures"][key] = value * concurrency / faster
                cells.append({**cell, "concurrency": concurrency, "round": number})
    throughput |= {
        "cells": cells,
        "summary": [row.dump() for row in summarize([Cell.model_validate(cell) for cell in cells])],
    }


def put(folder: Path, results: dict[str, Results]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in results.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    (folder / "checkpoint").mkdir(exist_ok=True)
    (folder / "checkpoint" / "config.json").write_text('{"dtype": "bfloat16"}')
    (folder / "recipe.resolved.yaml").write_text(f"name: {folder.name}\nmodifiers:\n- rtn: {{scheme: W4A16}}\n")


@pytest.fixture(scope="session")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """A model's folder with `count` recipes; more than one are test data. `fresh` for a test that changes files."""
    made: dict[tuple[int, int], Path] = {}

    def build(count: int, seed: int = 7, fresh: bool = False) -> Path:
        if (count, seed) in made and not fresh:
            return made[count, seed]
        folder = tmp_path_factory.mktemp("artifacts") / "tiny"
        chance = random.Random(seed)
        for name in NAMES[:count] if count > 1 else ["w8a8-dynamic"]:
            put(folder / name, varied(name, chance) if count > 1 else real())
        return folder if fresh else made.setdefault((count, seed), folder)

    return build
