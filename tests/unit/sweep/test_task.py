"""A stage as a task runs it: its outcome, its log, and what is no failure of its own."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from quantpress.runtime import locks
from quantpress.sweep import task
from quantpress.sweep.stages import Needs, Stage
from quantpress.sweep.task import LostError, NodeLostError, Setting


def stage(tmp_path: Path, *arguments: str, **about: Any) -> Stage:
    about = {"verb": "quantize", "results": ["made.json"], "writes": tmp_path / "artifact", **about}
    return Stage(key="k", model="m", recipe="r", arguments=list(arguments), needs=Needs(), **about)


def setting(tmp_path: Path, threads: str | None = None) -> Setting:
    return Setting(tmp_path / "logs", threads, tmp_path)


def test_an_outcome_says_where_when_and_how(tmp_path: Path) -> None:
    before = time.time()
    found = task.run(stage(tmp_path, "recipes", "list"), setting(tmp_path), "node-1")
    assert (found.state, found.exit_code, found.node, found.attempts) == ("there", 0, "node-1", 1)
    assert found.command == "quantpress recipes list"
    assert found.started and found.ended and before - 0.01 < found.started < found.ended
    log = Path(found.log or "")
    assert log.read_text().splitlines()[0] == found.command and "gptq-w4a16" in log.read_text()
    assert abs(task.begun_at(log) - found.started) < 0.01


def test_a_stage_that_fails_says_why_and_is_not_begun_again(tmp_path: Path) -> None:
    found = task.run(stage(tmp_path, "recipes", "show", "gtpq-w4a16"), setting(tmp_path), "n")
    assert (found.state, found.exit_code) == ("failed", 2)
    assert "did you mean 'gptq-w4a16'?" in (found.error or "")
    assert not found.has_results


@pytest.mark.parametrize(("code", "state"), [(3, "gate"), (1, "failed"), (4, "failed")])
def test_exit_codes(code: int, state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task, "_run_while_the_node_is_there", lambda *_: code)
    assert task.run(stage(tmp_path), setting(tmp_path), "n").state == state


def test_one_that_was_killed_is_lost_and_counts_as_an_attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task, "_run_while_the_node_is_there", lambda *_: 137)
    with pytest.raises(LostError, match="exit code 137"):
        task.run(stage(tmp_path), setting(tmp_path), "n")
    monkeypatch.setattr(task, "_run_while_the_node_is_there", lambda *_: 0)
    assert task.run(stage(tmp_path), setting(tmp_path), "n").attempts == 2


def test_one_that_is_lost_again_and_again_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where Ray would begin it again without end, as it does for want of memory."""
    monkeypatch.setattr(task, "_run_while_the_node_is_there", lambda *_: 137)
    for _ in range(1 + task.RETRIES):
        with pytest.raises(LostError):
            task.run(stage(tmp_path), setting(tmp_path), "n")
    found = task.run(stage(tmp_path), setting(tmp_path), "n")
    assert (found.state, found.attempts, found.log) == ("lost", 4, str(tmp_path / "logs" / "m-r-quantize.4.log"))


def test_a_stage_ends_with_its_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The raylet is gone: this worker has another parent."""
    command = ["sleep", "60"]
    parents = iter([1000, 1000, 1])
    monkeypatch.setattr(task, "_LOOK_S", 0.05)
    monkeypatch.setattr(os, "getppid", lambda: next(parents))
    begun = time.monotonic()
    with pytest.raises(NodeLostError):
        task._run_while_the_node_is_there(command, tmp_path / "log", {})
    assert time.monotonic() - begun < 10


def test_made_is_what_wrote_a_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = stage(tmp_path, results=["accuracy.json", "accuracy/*.json"])
    front, aside = one.writes / "accuracy.json", one.writes / "accuracy" / "smoke.json"
    aside.parent.mkdir(parents=True)

    def runs(act: Any) -> str:
        monkeypatch.setattr(task, "_run_while_the_node_is_there", lambda *_: (act(), 0)[1])
        return task.run(one, setting(tmp_path), "n").state

    assert runs(lambda: front.write_text("1")) == "made"
    assert runs(lambda: None) == "there"
    assert runs(lambda: front.replace(aside)) == "there"  # only another one is in front now
    assert runs(lambda: front.write_text("2")) == "made"


def test_the_threads_are_those_of_who_started_the_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray sets OMP_NUM_THREADS by a task's CPUs, and its token is nobody else's."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    seen: list[Any] = []
    monkeypatch.setattr(task, "_run_while_the_node_is_there", lambda _command, _log, env, _: seen.append(env) or 0)
    for threads in (None, "4"):
        task.run(stage(tmp_path), setting(tmp_path, threads), "n")
    assert [env["OMP_NUM_THREADS"] for env in seen] == [None, "4"]
    assert [env["RAY_AUTH_TOKEN"] for env in seen] == [None, None]


@pytest.mark.parametrize("is_there", [True, False])
def test_a_stage_runs_in_the_folder_of_who_started_the_sweep(
    is_there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the node has it: a recipe in it is found by the name that it has there."""
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    ours.mkdir()
    monkeypatch.chdir(ours)
    if is_there:
        theirs.mkdir()
        (theirs / "mine.yaml").write_text("name: mine\ndescription: d\nmodifiers: [{rtn: {scheme: W4A16}}]\n")
    one = Setting(tmp_path / "logs", None, theirs)
    assert task.run(stage(tmp_path, "recipes", "show", "mine.yaml"), one, "n").exit_code == (0 if is_there else 2)


def test_a_lost_attempt_is_waited_for(tmp_path: Path) -> None:
    one, held = stage(tmp_path, "recipes", "list"), threading.Event()
    one.writes.mkdir()

    def hold() -> None:
        with locks.lock(one.writes):
            held.set()
            time.sleep(0.3)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    begun = time.monotonic()
    task.run(one, setting(tmp_path), "n")
    assert time.monotonic() - begun > 0.3
    holder.join()
