"""What the quantize stage leaves where its worker fails; tests/e2e runs the real one."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from quantpress.errors import CapabilityError, InputError, QuantpressError, StageError
from quantpress.model import headers
from quantpress.model.source import Model, find_model
from quantpress.plan.resolve import Plan, plan_of
from quantpress.quantize import stage
from quantpress.quantize.workers import OneshotJob, OneshotResult, recipe_job
from quantpress.recipe.recipe import Calibration, Recipe
from quantpress.runtime import environment, free_memory, worker


@pytest.fixture
def plan() -> Plan:
    data = {"name": "r", "description": "d", "modifiers": [{"gptq": {"scheme": "W8A8"}}], "calibration": {}}
    return Plan(Recipe.model_validate(data), ("a", "b"), None, "channel", 64, 100)


@pytest.mark.parametrize("error", [InputError, StageError])
def test_wrong_input_leaves_no_log_and_names_none(
    error: type[QuantpressError], plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(module: str, job: Mapping[str, Any], folder: Path, title: str, log: Path, processes: int) -> Any:
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


def test_every_warning_reaches_the_screen_and_the_manifest(
    make_model: Callable[..., Path],
    safetensors: Callable[[Path, dict[str, tuple[int, ...]]], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What the worker says, what the sequences are, and what the written scales are: here the largest of bf16."""
    folder = make_model()
    config = json.loads((folder / "config.json").read_text()) | {"max_position_embeddings": 64}
    (folder / "config.json").write_text(json.dumps(config))
    model = find_model(str(folder))
    data = {"name": "r", "description": "d", "modifiers": [{"gptq": {"scheme": "W8A8"}}], "calibration": {}}
    made = plan_of(Recipe.model_validate(data), model)

    def working(module: str, job: Mapping[str, Any], where: Path, title: str, log: Path, processes: int) -> Any:
        output, path = Path(job["common"]["output"]), Path(job["common"]["output"]) / "model.safetensors"
        kept = {name: tensor.shape for name, tensor in headers.read_folder(folder).items()}
        kept = {name: shape for name, shape in kept.items() if name.removesuffix(".weight") not in job["layers"]}
        safetensors(path, kept | {f"{name}.weight_scale": (1,) for name in job["layers"]})
        scales = 2 * len(job["layers"])  # bytes, at the end of the file
        path.write_bytes(path.read_bytes()[:-scales] + b"\x7f" * scales)
        (output / "config.json").write_text("{}")
        result = OneshotResult(modifiers=[], calibration=None, warnings=["the worker's own"], threads=1)
        return result.dump()

    monkeypatch.setattr(worker, "call_worker", working)
    monkeypatch.setenv("QUANTPRESS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "staged").mkdir()
    manifest = stage.make_checkpoint(made, model, tmp_path / "staged", tmp_path / "log")
    starts = ("calibration sequences of 512 tokens are longer", "the worker's own", "14 scales are at the limit")
    assert [text.startswith(start) for text, start in zip(manifest.warnings, starts, strict=True)] == [True] * 3
    shown = " ".join(capsys.readouterr().err.split())
    assert all(f"warning: {start}" in shown for start in starts)


def test_a_model_larger_than_the_memory_is_said_before_the_start(
    make_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = find_model(str(make_model()))
    held = {"num_bits": 8, "strategy": "tensor", "observer": "mse"}
    data = {"name": "r", "description": "d", "modifiers": [{"rtn": {"weights": held}}]}
    made = replace(plan_of(Recipe.model_validate(data), model), weight_bytes=140_000_000_000)
    monkeypatch.setattr(free_memory, "available", lambda: 21_400_000_000)
    with pytest.raises(CapabilityError, match=r"140.0 GB of weights.*141.4 GB are needed, 21.4 GB are free") as caught:
        stage.quantize(made, model, tmp_path / "out", "never")
    assert "up to 10.0 billion parameters in 16 bits fit here" in str(caught.value.hint)
    assert not list((tmp_path / "out").glob("*/*"))


def test_a_model_that_is_replaced_while_it_is_quantized_names_no_checkpoint(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new weights' digest would stand for a checkpoint of the old ones."""
    model = Model("m", tmp_path / "model", "m", {})
    model.path.mkdir()
    weights = model.path / "model.safetensors"
    weights.write_bytes(b"old")

    def replaced(module: str, job: Mapping[str, Any], folder: Path, title: str, log: Path, processes: int) -> Any:
        (tmp_path / "other").write_bytes(b"new")
        (tmp_path / "other").rename(weights)
        return OneshotResult(modifiers=[], calibration=None, threads=1, warnings=[]).dump()

    monkeypatch.setattr(worker, "call_worker", replaced)
    (tmp_path / "staged").mkdir()
    with pytest.raises(StageError, match="nobody knows what was loaded"):
        stage.make_checkpoint(plan, model, tmp_path / "staged", tmp_path / "log")


@pytest.mark.parametrize(("gpus", "kind"), [(1, "GPU"), (0, "core")])
def test_more_processes_than_devices_are_refused(
    gpus: int, kind: str, plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "visible_gpus", lambda: ["a GPU"] * gpus)
    shared = plan.recipe.model_copy(update={"calibration": Calibration(processes=64)})
    with pytest.raises(CapabilityError, match=rf"processes is 64, each takes a {kind} of its own"):
        stage.prepared(replace(plan, recipe=shared), Model("m", tmp_path, "m", {}), "stored")
    of_nodes = stage.prepared(replace(plan, recipe=shared), Model("m", tmp_path, "m", {}), "stored", elsewhere=True)
    assert stage.processes_of(of_nodes) == 64


def test_several_processes_take_no_weights_from_the_disk(plan: Plan, tmp_path: Path) -> None:
    shared = plan.recipe.model_copy(update={"calibration": Calibration(processes=2)})
    model = Model("m", tmp_path, "m", {})
    with pytest.raises(CapabilityError, match="several processes do not find weights that stay on the disk"):
        stage.make_checkpoint(replace(plan, recipe=shared), model, tmp_path, tmp_path / "log", on_disk=True)
    assert not list(tmp_path.iterdir())


def test_weights_that_several_processes_share_in_memory_are_not_rescaled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen with llmcompressor 0.14: each process multiplies the same weights once more."""
    monkeypatch.setattr(environment, "visible_gpus", list)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    modifiers = [{"smoothquant": {}}, {"gptq": {"scheme": "W8A8"}}]
    data = {"name": "r", "description": "d", "modifiers": modifiers, "calibration": {"processes": 2}}
    rescaled = Plan(Recipe.model_validate(data), ("a", "b"), None, "channel", 64, 100)
    with pytest.raises(CapabilityError, match="smoothquant in several processes needs a GPU for each"):
        stage.prepared(rescaled, Model("m", tmp_path, "m", {}), "stored")


def test_what_one_process_does_has_the_digest_that_it_had(plan: Plan, tmp_path: Path) -> None:
    digests = {
        number: stage._inputs_beside(replace(plan, recipe=shared), Model("m", tmp_path, "m", {})).digest
        for number in (None, 2, 3)
        for shared in [plan.recipe.model_copy(update={"calibration": Calibration(processes=number)})]
    }
    assert len(set(digests.values())) == 3
    alone = stage._inputs_beside(plan, Model("m", tmp_path, "m", {}))
    assert "processes" not in alone.model_dump_json(exclude_none=True)
