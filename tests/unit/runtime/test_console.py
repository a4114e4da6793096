"""What people see: whatever the terminal takes, and whoever listens, a finished command stays finished."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from quantpress.runtime import console

SAY = """
import sys, time
from quantpress.runtime import console
console.use(as_json="json" in sys.argv)
console.say("✓ größer … ≥ 1")
console.warn("twice")
console.warn("twice")
with console.step("step × one"):
    pass
console.show({"name": "größer ✓ \\U0001f600 \\udc80"}, "größer ✓ \\U0001f600 \\udc80")
console.complain("error: größer")
print("went on", file=open(sys.argv[1], "w"))
raise SystemExit(3)
"""
BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}


def say(tmp_path: Path, redirected: str, *words: str, **env: str) -> subprocess.CompletedProcess[bytes]:
    """Runs SAY in a shell, its streams redirected."""
    (tmp_path / "say.py").write_text(SAY, encoding="utf-8")
    command = f'"{sys.executable}" "{tmp_path}/say.py" "{tmp_path}/went-on" {" ".join(words)} {redirected}'
    script = f"set -o pipefail; {command}"
    return subprocess.run(["bash", "-c", script], env={**BUFFERED, **env}, capture_output=True, check=False)


@pytest.mark.parametrize(
    "env",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1"},
        {"PYTHONIOENCODING": "ascii:strict"},
        {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
    ids=["ascii", "latin-1", "strict", "C"],
)
def test_every_text_is_written_whatever_the_encoding(env: dict[str, str], tmp_path: Path) -> None:
    done = say(tmp_path, "", **env)
    assert done.returncode == 3, done.stderr
    assert b"\\u2713" not in done.stdout + done.stderr
    assert b" ok \\U0001f600 \\udc80" in done.stdout
    assert b"ok gr" in done.stderr
    assert b"... >= 1" in done.stderr
    assert done.stderr.count(b"twice") == 1
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_json_stays_json(encoding: str, tmp_path: Path) -> None:
    done = say(tmp_path, "", "json", PYTHONIOENCODING=encoding)
    assert json.loads(done.stdout.decode(encoding))["name"] == "größer ✓ \U0001f600 \udc80"


@pytest.mark.parametrize(
    "redirected",
    [
        "| true",
        "2>&1 | true",
        ">/dev/full",
        "2>/dev/full",
        ">&- 2>&-",
        "2>/dev/full >/dev/full",
    ],
)
def test_nobody_who_listens_is_no_failure(redirected: str, tmp_path: Path) -> None:
    done = say(tmp_path, redirected)
    assert done.returncode == 3
    assert (tmp_path / "went-on").read_text() == "went on\n"
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr
    assert (b"could not be printed: " in done.stderr) is (redirected == ">/dev/full")


def test_help_into_a_closed_pipe_is_no_failure() -> None:
    command = f'set -o pipefail; "{sys.executable}" -m quantpress --help | true'
    done = subprocess.run(["bash", "-c", command], env=BUFFERED, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_nothing_is_silent_for_long(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(console, "_SILENCE_S", 0.2)
    told = console.Console()
    with told.watch("report"):
        time.sleep(0.5)
        with told.step("counting"):
            time.sleep(0.5)
    said = capsys.readouterr().err.splitlines()
    assert sum("report goes on" in line for line in said[:3]) in (1, 2)
    assert sum(line.startswith("… counting") for line in said) in (2, 3)
    assert not any("report goes on" in line for line in said[said.index("… counting") :])


def test_people_hear_something_at_least_every_ten_seconds() -> None:
    assert console._SILENCE_S * 9 / 8 < 10


@pytest.mark.parametrize("action", [["schema"], ["show", "w8a8-dynamic"], ["list"]])
def test_recipes_into_a_closed_pipe_are_no_failure(action: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as closed:
        command = [sys.executable, "-m", "quantpress", "recipes", *action]
        done = subprocess.run(command, env=BUFFERED, stdout=closed, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_an_answer_in_a_log_is_nothing_that_is_being_done(tmp_path: Path) -> None:
    log = tmp_path / "probe.log"
    log.write_text('loading vllm\n{"answers": {"a": [1, 2]}}\n')
    assert console.last_activity(log) == "loading vllm"
