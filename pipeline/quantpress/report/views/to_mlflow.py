"""Reports in MLflow: one parent run for the report, one child for each recipe. Imported only when it is asked for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from quantpress.errors import CapabilityError, InputError, StageError, first_line
from quantpress.report import NAMES
from quantpress.report.facts.fields import Data, get, number

EXPERIMENT = "quantpress"
_FILES = ("manifest.json", "recipe.resolved.yaml", "accuracy.json", "throughput.json", "layer_errors.json")


def track(made: list[tuple[Path, Data]], uri: str) -> list[str]:
    """Logs each report to the MLflow server (or folder) at `uri`; returns the parent runs' ids.

    Raises InputError for a URI with a password, CapabilityError if MLflow is not installed, StageError if it refuses.
    """
    if "@" in uri.partition("://")[2].partition("/")[0]:
        raise InputError(
            "a URI with a user name or a password in it would end up in messages",
            hint="MLflow reads MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
        )
    os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true"}
    try:
        import mlflow
    except ImportError as error:
        raise CapabilityError(
            "MLflow is not installed", hint="pip install 'quantpress[mlflow]', or mlflow-skinny alone"
        ) from error
    try:
        mlflow.set_tracking_uri(uri)
        mlflow.set_experiment(EXPERIMENT)
        return [_report(mlflow, folder, data) for folder, data in made]
    except (mlflow.exceptions.MlflowException, OSError) as error:
        raise StageError(f"MLflow at {uri}: {first_line(error)}", hint="check that the server runs there") from error


def _report(mlflow: Any, folder: Path, data: Data) -> str:
    """The parent: the model, the decision, and the three views."""
    model = data["model"]
    with mlflow.start_run(run_name=model["name"]) as parent:
        mlflow.set_tags(_tags(data) | {"headline": data["decision"]["headline"][:5000]})
        for goal in data["decision"]["goals"]:
            mlflow.set_tag(f"winner.{goal['goal']}", goal["winner"] or goal["state"])
        for name in NAMES:
            mlflow.log_artifact(str(folder / name))
        for recipe in data["recipes"]:
            with mlflow.start_run(run_name=recipe["name"], nested=True):
                _recipe(mlflow, folder / recipe["name"], recipe, data)
        return str(parent.info.run_id)


def _tags(data: Data) -> dict[str, str]:
    """Where a figure comes from: model and version."""
    model = data["model"]
    return {
        "quantpress.version": data["quantpress"],
        "model.name": model["name"],
        "model.source": model["source"],
        "model.revision": str(model["revision"]),
        "model.digest": model["digest"],
    }


def _recipe(mlflow: Any, folder: Path, recipe: Data, data: Data) -> None:
    name = recipe["name"]
    lineage = {"recipe.name": name, "checkpoint.digest": recipe["digest"], "created": recipe["created"]}
    missing = {f"missing.{stage}": reason[:500] for stage, reason in recipe["missing"].items()}
    mlflow.set_tags(_tags(data) | lineage | missing | {"gate": data["decision"]["gate_states"][name]})
    mlflow.log_params(parameters(recipe))
    for step, values in metrics(recipe):
        mlflow.log_metrics(values, step=step)
    for file in _FILES:
        if (folder / file).is_file():
            mlflow.log_artifact(str(folder / file))
    for stage in ("accuracy", "throughput"):
        if (folder / stage).is_dir():
            mlflow.log_artifacts(str(folder / stage), stage)


def parameters(recipe: Data) -> dict[str, str]:
    """What decided the figures: scales, calibration, suite, workload, versions."""
    size, accuracy, speed = recipe["size"], recipe["accuracy"], recipe["throughput"]
    found = {
        "scales": size["scales"],
        "calibration_tokens": size["calibration_tokens"],
        "suite": get(accuracy, "suite"),
        "backend": get(accuracy, "backend"),
        "documents": get(accuracy, "documents"),
        "workload": get(speed, "workload", "name"),
        "weights": get(speed, "weights"),
        "vllm": get(speed, "vllm"),
        **recipe["versions"],
    }
    return {name: str(value)[:500] for name, value in found.items() if value is not None}


def metrics(recipe: Data) -> Iterator[tuple[int, dict[str, float]]]:
    """Figures with their intervals' edges; those of speed with the concurrency as MLflow's step, which is a whole
    number: a request rate is in the names.
    """
    size = {name: recipe["size"][name] for name in ("checkpoint_bytes", "ratio", "bits_per_weight", "seconds")}
    found = {f"size.{name}": value for name, value in size.items()}
    for name, figure in get(recipe["accuracy"], "overall", default={}).items():
        found |= _edges(name, figure)
    for task in get(recipe["accuracy"], "tasks", default=[]):
        found |= _edges(f"{task['task']}.recovery", task["recovery"])
        found |= {f"{task['task']}.accuracy": task["candidate"]}
    yield 0, _known(found)
    for point in get(recipe["throughput"], "points", default=[]):
        cell = {name: get(figure, "value") for name, figure in (point["candidate"] or {}).items()}
        for name, ratio in point["ratios"].items():
            cell |= _edges(f"{name}.times_better", ratio)
        if point["concurrency"] is None:
            yield 0, {f"{name}.at_{point['request_rate']:g}_per_s": value for name, value in _known(cell).items()}
        else:
            yield point["concurrency"], _known(cell)


def _edges(name: str, figure: Data) -> dict[str, Any]:
    low, high = figure["interval"] or (None, None)
    return {name: figure["value"], f"{name}.low": low, f"{name}.high": high}


def _known(values: dict[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items() if number(value)}
