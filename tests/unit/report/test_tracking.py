"""What goes to MLflow; and, where a full MLflow is named by $QUANTPRESS_MLFLOW, a real local server that takes it.

    python -m venv mlflow && mlflow/bin/pip install mlflow
    QUANTPRESS_MLFLOW=mlflow/bin/mlflow .venv/bin/python -m pytest tests/unit/report/test_tracking.py

The client (mlflow-skinny) has to be installed in the environment of the test. Neither is in a lock: mlflow pins
versions that the quantize environment cannot have, its client brings twenty packages, and few use them.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from support import answering

from quantpress import report
from quantpress.errors import CapabilityError, InputError, StageError
from quantpress.report.facts import collect
from quantpress.report.views import to_mlflow

Run = Callable[..., "subprocess.CompletedProcess[str]"]
SERVER = os.environ.get("QUANTPRESS_MLFLOW")
real = pytest.mark.skipif(
    not SERVER or not find_spec("mlflow"),
    reason="no MLflow server is named by QUANTPRESS_MLFLOW, or no client is there",
)


def test_parameters_and_metrics_are_the_reports_figures(artifacts: Callable[..., Path]) -> None:
    recipe = collect.collect(artifacts(1), None).recipes[0]
    assert to_mlflow.parameters(recipe)["suite"] == "smoke"
    assert to_mlflow.parameters(recipe)["llmcompressor"] == recipe.versions["llmcompressor"]
    steps = dict(to_mlflow.metrics(recipe))
    assert list(steps) == [0, 1, 8]
    assert recipe.overall
    assert steps[0]["recovery"] == recipe.overall.recovery.value
    assert steps[0]["recovery.low"] <= steps[0]["recovery"] <= steps[0]["recovery.high"]
    point = recipe.speeds[0].points[1]
    assert point.candidate
    assert steps[8]["output_tokens_s"] == point.candidate["output_tokens_s"].value
    assert steps[8]["tpot_ms.times_better"] == point.ratios["tpot_ms"].value


def test_nothing_is_imported_that_is_not_used() -> None:
    modules = "quantpress.cli.main, quantpress.report.views.page, quantpress.report.views.plots"
    code = f"import sys; import {modules}; assert not {{'mlflow', 'vl_convert', 'jinja2'}} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_without_mlflow_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(CapabilityError, match="not installed"):
        to_mlflow.require_usable("http://127.0.0.1:1")


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("https://me:secret@example.org", "password"),
        ("htp://host:5000", r"MLflow has no htp://; did you mean 'http'"),
        ("localhost:5000", "no scheme"),
        ("127.0.0.1:5000/x", "no scheme"),
        ("http://", "names no host"),
        ("http://host:99999", "Port out of range"),
        ("ftp://host/", "MLflow has no ftp://"),
    ],
)
def test_a_uri_that_leads_nowhere_is_refused(uri: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        to_mlflow.require_usable(uri)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if MLflow were here; the server is asked without it."""
    monkeypatch.setattr(to_mlflow, "find_spec", lambda name: name)


@pytest.mark.usefixtures("installed")
def test_a_server_is_asked_once_before_the_work() -> None:
    with answering(200, b"{}") as url:
        to_mlflow.require_usable(url)
    with pytest.raises(CapabilityError, match=r"no MLflow server answers at .*Connection refused"):
        to_mlflow.require_usable(url)
    with answering(401, b"") as url, pytest.raises(CapabilityError, match="refuses: 401") as caught:
        to_mlflow.require_usable(url)
    assert "MLFLOW_TRACKING_TOKEN" in str(caught.value.hint)
    with answering(404, b"") as url, pytest.raises(CapabilityError, match="refuses: 404"):
        to_mlflow.require_usable(url)
    to_mlflow.require_usable("./runs")
    to_mlflow.require_usable("sqlite:///runs.db")


@pytest.mark.usefixtures("installed")
def test_a_server_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(to_mlflow, "_PATIENCE_S", 0.3)
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        started = time.monotonic()
        with pytest.raises(CapabilityError, match=r"no MLflow server answers at .* within 0\.3 s"):
            to_mlflow.require_usable(f"http://127.0.0.1:{deaf.getsockname()[1]}")
    assert time.monotonic() - started < 5


def test_no_report_is_made_for_a_server_that_is_not_there(quantpress: Run, artifacts: Callable[..., Path]) -> None:
    folder = artifacts(1, fresh=True)
    done = quantpress("report", "--all", "--out", str(folder.parent), "--mlflow", "htp://nowhere")
    assert done.returncode == 2
    assert "did you mean 'http'" in done.stderr
    assert not (folder / "report.json").exists()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        str(Path(str(SERVER)).absolute()),
        "server",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    command += ["--backend-store-uri", "sqlite:///runs.db", "--artifacts-destination", "./files"]
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | quiet
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        _wait(f"http://127.0.0.1:{port}/health")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(60)


def _wait(url: str) -> None:
    for _ in range(300):
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            time.sleep(1)
    raise AssertionError(f"{url} does not answer")


@real
def test_a_real_server_has_one_run_a_recipe_under_one_parent(server: str, artifacts: Callable[..., Path]) -> None:
    import mlflow

    folder = artifacts(3)
    data = collect.collect(folder, None)
    report.write(folder, data)
    (parent,) = to_mlflow.track([(folder, data)], server)
    client = mlflow.MlflowClient(server)
    runs = client.search_runs([client.get_experiment_by_name(to_mlflow.EXPERIMENT).experiment_id])
    children = {run.info.run_name: run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent}
    assert children.keys() == {recipe.name for recipe in data.recipes}
    assert {file.path for file in client.list_artifacts(parent)} == set(report.NAMES)
    for recipe in data.recipes:
        run = children[recipe.name]
        assert run.data.tags["model.digest"] == data.model.digest
        assert run.data.tags["checkpoint.digest"] == recipe.digest
        assert run.data.params == to_mlflow.parameters(recipe)
        assert recipe.overall
        assert run.data.metrics["recovery"] == recipe.overall.recovery.value
        assert "manifest.json" in {file.path for file in client.list_artifacts(run.info.run_id)}
        levels = client.get_metric_history(run.info.run_id, "output_tokens_s")
        assert [level.step for level in levels] == [point.concurrency for point in recipe.speeds[0].points]


@real
def test_a_server_that_is_not_there_is_a_stage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(StageError, match="MLflow at"):
        to_mlflow.track([], "http://127.0.0.1:1")
