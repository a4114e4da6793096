"""Reports in MLflow: one parent run for the report, one child for each recipe. Imported only when it is asked for."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from quantpress.errors import CapabilityError, InputError, StageError, first_line
from quantpress.report import NAMES
from quantpress.report.facts.data import Figure, Recipe, Report

EXPERIMENT = "quantpress"
_FILES = ("manifest.json", "recipe.resolved.yaml", "accuracy.json", "throughput.json", "layer_errors.json")


def track(made: list[tuple[Path, Report]], uri: str) -> list[str]:
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
        return [_report(mlflow, folder, report) for folder, report in made]
    except (mlflow.exceptions.MlflowException, OSError) as error:
        raise StageError(f"MLflow at {uri}: {first_line(error)}", hint="check that the server runs there") from error


def _report(mlflow: Any, folder: Path, report: Report) -> str:
    """The parent: the model, the decision, and the three views."""
    with mlflow.start_run(run_name=report.model.name) as parent:
        mlflow.set_tags(_tags(report) | {"headline": report.decision.headline[:5000]})
        for goal in report.decision.goals:
            mlflow.set_tag(f"winner.{goal.goal}", goal.winner or goal.state)
        for name in NAMES:
            mlflow.log_artifact(str(folder / name))
        for recipe in report.recipes:
            with mlflow.start_run(run_name=recipe.name, nested=True):
                _recipe(mlflow, folder / recipe.name, recipe, report)
        return str(parent.info.run_id)


def _tags(report: Report) -> dict[str, str]:
    """Where a figure comes from: model and version."""
    return {
        "quantpress.version": report.quantpress,
        "model.name": report.model.name,
        "model.source": report.model.source,
        "model.revision": str(report.model.revision),
        "model.digest": report.model.digest,
    }


def _recipe(mlflow: Any, folder: Path, recipe: Recipe, report: Report) -> None:
    lineage = {"recipe.name": recipe.name, "checkpoint.digest": recipe.digest, "created": recipe.created}
    missing = {f"missing.{stage}": reason[:500] for stage, reason in recipe.missing.items()}
    mlflow.set_tags(_tags(report) | lineage | missing | {"gate": report.decision.gate_states[recipe.name]})
    mlflow.log_params(parameters(recipe))
    for step, values in metrics(recipe):
        mlflow.log_metrics(values, step=step)
    for file in _FILES:
        if (folder / file).is_file():
            mlflow.log_artifact(str(folder / file))
    for stage in ("accuracy", "throughput"):
        if (folder / stage).is_dir():
            mlflow.log_artifacts(str(folder / stage), stage)


def parameters(recipe: Recipe) -> dict[str, str]:
    """What decided the figures: scales, calibration, suite, workload, versions."""
    size, score, speed = recipe.size, recipe.accuracy, recipe.throughput
    known: dict[str, str | int | None] = {"scales": size.scales, "calibration_tokens": size.calibration_tokens}
    if score:
        known |= {"suite": score.suite, "backend": score.backend, "documents": score.documents}
    if speed:
        known |= {"workload": speed.workload_name, "weights": speed.weights, "vllm": speed.vllm}
    known |= recipe.versions
    return {name: str(value)[:500] for name, value in known.items() if value is not None}


def metrics(recipe: Recipe) -> Iterator[tuple[int, dict[str, float]]]:
    """Figures with their intervals' edges; those of speed with the concurrency as MLflow's step, which is a whole
    number: a request rate is in the names.
    """
    size = recipe.size.model_dump(include={"checkpoint_bytes", "ratio", "bits_per_weight", "seconds"})
    whole: dict[str, float | None] = {f"size.{name}": value for name, value in size.items()}
    if score := recipe.accuracy:
        for name, figure in score.overall:
            whole |= _edges(name, figure)
        for task in score.tasks:
            whole |= _edges(f"{task.task}.recovery", task.recovery) | {f"{task.task}.accuracy": task.candidate}
    yield 0, _known(whole)
    for point in recipe.throughput.points if recipe.throughput else []:
        at = {name: spread.value for name, spread in (point.candidate or {}).items()}
        for name, ratio in point.ratios.items():
            at |= _edges(f"{name}.times_better", ratio)
        if point.concurrency is None:
            yield 0, {f"{name}.at_{point.request_rate:g}_per_s": value for name, value in _known(at).items()}
        else:
            yield point.concurrency, _known(at)


def _edges(name: str, figure: Figure) -> dict[str, float | None]:
    low, high = figure.interval or (None, None)
    return {name: figure.value, f"{name}.low": low, f"{name}.high": high}


def _known(values: dict[str, float | None]) -> dict[str, float]:
    """What MLflow takes: figures that are there, and finite."""
    return {name: float(value) for name, value in values.items() if value is not None and math.isfinite(value)}
