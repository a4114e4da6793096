"""A small sweep on Ray on this machine: what it makes, what it says, and that nothing stays when it is killed.

tests/e2e/test_sweep_kills.py kills more, on three nodes.
"""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

pytestmark = pytest.mark.e2e
Run = Callable[..., "subprocess.CompletedProcess[str]"]
Start = Callable[..., "subprocess.Popen[bytes]"]
SWEEP = """
name: small
description: Two recipes, of which one cannot be written.
models: [{model}]
recipes: [rtn-w4a16, w8a8-dynamic]
suites: [smoke]
"""


@pytest.fixture(scope="module")
def sweep_file(two_layers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sweep") / "sweep.yaml"
    path.write_text(SWEEP.format(model=two_layers))
    return path


def of_verbs(events: list[dict[str, Any]]) -> dict[tuple[str, str | None], dict[str, Any]]:
    return {(one["verb"], one["recipe"]): one for one in events if one["event"] == "stage"}


def test_a_cell_that_fails_ends_itself_alone(sweep_file: Path, tmp_path: Path, real: Run) -> None:
    stranger = tmp_path / "two-layers" / "w8a8-dynamic" / "notes.txt"  # which no stage replaces
    stranger.parent.mkdir(parents=True)
    stranger.write_text("mine")
    done = real("sweep", str(sweep_file), "--out", str(tmp_path), "--limit", "2", "--json", expect=1)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    stages = of_verbs(events)
    assert {key: one["state"] for key, one in stages.items()} == {
        ("quantize", "rtn-w4a16"): "made",
        ("quantize", "w8a8-dynamic"): "failed",
        ("baseline", None): "made",
        ("evaluate", "rtn-w4a16"): "made",
        ("evaluate", "w8a8-dynamic"): "skipped",
    }
    failed = stages["quantize", "w8a8-dynamic"]
    assert (failed["exit_code"], failed["attempts"]) == (2, 1) and "notes.txt" in failed["error"]
    assert "quantize two-layers with w8a8-dynamic" in done.stderr

    # The model was scored by its own stage, and by no other one.
    scored = json.loads((tmp_path / "two-layers" / "rtn-w4a16" / "accuracy.json").read_text())["runs"]["baseline"]
    assert (tmp_path / "two-layers" / "baseline" / "scores" / scored["folder"] / "score.json").is_file()
    assert "baseline on smoke: scored before" in Path(stages["evaluate", "rtn-w4a16"]["log"]).read_text()

    # One report over all, and a record that says the same as the events.
    (report,) = (one["reports"] for one in events if one["event"] == "report")
    assert report[0]["recipes"] == ["rtn-w4a16"] and Path(report[0]["report_html"]).is_file()
    record = json.loads((tmp_path / ".sweeps" / "small" / "sweep.json").read_text())
    assert {one["key"] for one in record["outcomes"]} == {one["key"] for one in stages.values()}

    # What is there is known.
    planned = json.loads(
        real("sweep", str(sweep_file), "--plan", "--json", "--out", str(tmp_path), "--limit", "2").stdout
    )
    assert {one["recipe"] or "baseline" for one in planned["stages"] if one["there"]} == {"rtn-w4a16", "baseline"}
    assert sum(one["there"] for one in planned["stages"]) == 3


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 130), (signal.SIGKILL, -9)], ids=["kill", "kill -9"])
def test_nothing_outlives_a_sweep_that_is_killed(
    number: int, code: int, sweep_file: Path, tmp_path: Path, start: Start
) -> None:
    running = start("sweep", str(sweep_file), "--out", str(tmp_path))
    deadline = time.monotonic() + 180
    while not any("-m quantpress quantize" in said(one) for one in below(running)):
        assert running.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    # Two agents of Ray's notice after a minute that their raylet is gone; they do nothing without it.
    # The raylet's own command names them.
    ours = [one for one in below(running) if one.name() == "raylet" or "agent" not in said(one).lower()]
    assert any("raylet" in one.name() for one in ours)
    running.send_signal(number)
    assert running.wait(60) == code
    _, alive = psutil.wait_procs(ours, timeout=60)
    assert not alive, [said(one) for one in alive]


def said(process: psutil.Process) -> str:
    with suppress(psutil.NoSuchProcess):
        return " ".join(process.cmdline())
    return ""


def below(command: subprocess.Popen[bytes]) -> list[psutil.Process]:
    return psutil.Process(command.pid).children(recursive=True)
