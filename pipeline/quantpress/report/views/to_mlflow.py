"""Reports in MLflow: one parent run for the report, one child for each recipe. Imported only when it is asked for."""

from __future__ import annotations

import base64
import math
import os
import re
import ssl
from collections.abc import Iterator
from http.client import HTTPException
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from quantpress.errors import CapabilityError, InputError, StageError, first_line, nearest
from quantpress.report import NAMES
from quantpress.report.facts.data import Figure, Recipe, Report
from quantpress.runtime import console

EXPERIMENT = "quantpress"
_SCHEMES = ("http", "https", "file", "sqlite", "postgresql", "mysql", "mssql", "databricks")
_HOST_AND_PORT = re.compile(r"^[\w.-]+:\d+(/|$)")
_PATIENCE_S = 5
_FILES = ("manifest.json", "recipe.resolved.yaml", "accuracy.json", "throughput.json", "layer_errors.json")


def require_usable(uri: str) -> None:
    """What `track` needs, tried before the work: the URI's form, MLflow itself, and that a server answers, asked once.

    Raises InputError for a URI that leads nowhere, CapabilityError if MLflow is not installed or the server cannot be
    used.
    """
    scheme = _scheme(uri)
    if find_spec("mlflow") is None:
        raise CapabilityError(
            "MLflow is not installed", hint="pip install 'quantpress[mlflow]', or mlflow-skinny alone"
        )
    if scheme in ("http", "https"):
        _require_answer(uri.rstrip("/"))


def _scheme(uri: str) -> str:
    """Raises InputError for a URI with a password, or of a kind that MLflow does not know."""
    if "@" in uri.partition("://")[2].partition("/")[0]:
        raise InputError(
            "a URI with a user name or a password in it would end up in messages",
            hint="MLflow reads MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
        )
    if _HOST_AND_PORT.match(uri):
        raise InputError(f"--mlflow {uri}: no scheme", hint=f"--mlflow http://{uri}")
    try:
        parts = urlsplit(uri)
        has_host = bool(parts.hostname) and parts.port != 0
    except ValueError as error:
        raise InputError(f"--mlflow {uri}: {error}", hint="--mlflow http://HOST:PORT") from error
    known = {*_SCHEMES, *(plugin.name for plugin in entry_points(group="mlflow.tracking_store"))}
    if parts.scheme and parts.scheme.partition("+")[0] not in known:
        raise InputError(
            f"--mlflow {uri}: MLflow has no {parts.scheme}://; {nearest(parts.scheme, known)}",
            hint="--mlflow http://HOST:PORT, or a folder",
        )
    if parts.scheme in ("http", "https") and not has_host:
        raise InputError(f"--mlflow {uri}: names no host", hint="--mlflow http://HOST:PORT")
    return parts.scheme


def _require_answer(uri: str) -> None:
    asked = Request(f"{uri}/api/2.0/mlflow/experiments/search?max_results=1", headers=_credentials())
    try:
        with console.step(f"asking MLflow at {uri}"), urlopen(asked, timeout=_PATIENCE_S, context=_trusted()):
            pass
    except HTTPError as error:
        if error.code in (401, 403):
            hint = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        else:
            hint = "check that an MLflow server runs there"
        raise CapabilityError(f"MLflow at {uri} refuses: {error.code} {error.reason}", hint=hint) from error
    except (OSError, HTTPException) as error:
        reason = error.reason if isinstance(error, URLError) else first_line(error)
        raise CapabilityError(
            f"no MLflow server answers at {uri} within {_PATIENCE_S} s: {reason}",
            hint="start it, or check the address; without --mlflow the report is written here alone",
        ) from error


def _credentials() -> dict[str, str]:
    """As MLflow's own client takes them from the environment."""
    name, password = os.environ.get("MLFLOW_TRACKING_USERNAME"), os.environ.get("MLFLOW_TRACKING_PASSWORD")
    if name and password:
        return {"Authorization": "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()}
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    return {"Authorization": f"Bearer {token}"} if token else {}


def _trusted() -> ssl.SSLContext:
    if os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in ("1", "true"):
        return ssl._create_unverified_context()
    return ssl.create_default_context(cafile=os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH"))


def track(made: list[tuple[Path, Report]], uri: str) -> list[str]:
    """Logs each report to the MLflow server (or folder) at `uri`; returns the parent runs' ids.

    Raises StageError if it refuses; what it needs is tried beforehand (require_usable).
    """
    os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true"}
    # By default a server that has gone is waited for with 7 retries of 120 s.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    import mlflow

    try:
        with console.step(f"logging to MLflow at {uri}"):
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
    if theirs := recipe.adopted:
        lineage |= {"adopted.from": theirs.source, "adopted.format": theirs.format}
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
