"""What the quantize stage leaves where its worker fails; tests/e2e runs the real one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from quantpress.errors import InputError, QuantpressError, StageError
from quantpress.model.source import Model
from quantpress.plan.resolve import Plan
from quantpress.quantize import stage
from quantpress.quantize.workers import OneshotJob, recipe_job
from quantpress.recipe.recipe import Recipe
from quantpress.runtime import worker


@pytest.fixture
def plan() -> Plan:
    data = {"name": "r", "description": "d", "modifiers": [{"rtn": {"scheme": "W8A8"}}]}
    return Plan(Recipe.model_validate(data), ("a", "b"), None, "channel", 64, 100)


@pytest.mark.parametrize("error", [InputError, StageError])
def test_wrong_input_leaves_no_log_and_names_none(
    error: type[QuantpressError], plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(module: str, job: Mapping[str, Any], folder: Path, title: str, log: Path) -> Any:
        log.write_text("what the worker printed")
        raise error("it is wrong", log=log)

    monkeypatch.setattr(worker, "call_worker", failing)
    model = Model("m", tmp_path / "model", "m", {})
    model.path.mkdir()
    (model.path / "model.safetensors").write_bytes(b"")
    (tmp_path / "staged").mkdir()
    log = tmp_path / "r.quantize.log"
    with pytest.raises(error, match="it is wrong") as caught:
        stage.make_checkpoint(plan, model, tmp_path / "staged", log)
    kept = error is StageError
    assert log.exists() is kept
    assert (str(log) in caught.value.render()) is kept


def test_a_job_arrives_as_it_was_sent(plan: Plan, tmp_path: Path) -> None:
    model = Model("m", tmp_path, "m", {}, trust_remote_code=True)
    job = OneshotJob(common=recipe_job(plan, model, tmp_path / "out"), largest_input=64, compute_dtype="float32")
    assert OneshotJob.model_validate(job.dump()) == job
    assert job.dump()["common"]["recipe"] == plan.recipe.dump()  # without nulls
