"""Which stage is handed to Ray when, and what becomes of one that Ray loses; a stand-in for Ray runs tasks at once."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from quantpress.sweep import cluster, task
from quantpress.sweep.placing import Node
from quantpress.sweep.stages import Needs, Outcome, Stage, Verb, ended
from quantpress.sweep.task import Setting

NODES = [Node(8, 0, 10**9)]
Act = Callable[[Stage], Outcome]


class RayError(Exception):
    """As Ray raises it: `cause` is what the task raised."""

    def __init__(self, cause: Exception | None = None) -> None:
        super().__init__("ray::_run() (pid=1)\nTraceback")
        self.cause = cause


@dataclass(eq=False)
class Ref:
    """What came of a task."""

    outcome: Outcome | None = None
    error: RayError | None = None


class RayStandIn:
    """`handed` are the stages in their order."""

    exceptions = SimpleNamespace(RayError=RayError)

    def __init__(self, act: Act) -> None:
        self.act, self.handed = act, list[str]()

    def remote(self, **_: Any) -> Any:
        return lambda _: SimpleNamespace(options=lambda **_: SimpleNamespace(remote=self._begun))

    def _begun(self, stage: Stage, _: Setting) -> Ref:
        self.handed.append(stage.key)
        try:
            return Ref(self.act(stage))
        except RayError as error:
            return Ref(error=error)

    def wait(self, refs: list[Ref], num_returns: int) -> tuple[list[Ref], list[Ref]]:
        return refs[:num_returns], refs[num_returns:]

    def get(self, ref: Ref) -> Outcome:
        if ref.outcome is None:
            raise ref.error or RayError
        return ref.outcome


def stage(key: str, verb: Verb, after: str = "", requires: str = "") -> Stage:
    about = {"after": list(after), "requires": list(requires), "needs": Needs()}
    return Stage(key=key, verb=verb, model="m", recipe=key, arguments=[], results=[], writes=Path("m"), **about)


# One cell: quantize, baseline, evaluate, bench.
CELL = [
    stage("q", "quantize"),
    stage("b", "baseline"),
    stage("e", "evaluate", after="qb", requires="qb"),
    stage("s", "bench", after="qe", requires="q"),
]


@pytest.fixture
def ended_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Act], dict[str, Outcome]]:
    """What becomes of the cell, by key, in the order in which it was told, if this becomes of its tasks."""

    def run(act: Act) -> dict[str, Outcome]:
        monkeypatch.setattr(cluster, "_ray", lambda: RayStandIn(act))
        return {one.key: one for one in cluster.outcomes(CELL, NODES, Setting(tmp_path / "logs", None, tmp_path))}

    return run


def test_a_stage_is_handed_over_when_all_before_it_have_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = RayStandIn(lambda stage: ended(stage, "made"))
    monkeypatch.setattr(cluster, "_ray", lambda: ray)
    handed = {one.key: list(ray.handed) for one in cluster.outcomes(CELL, NODES, Setting(tmp_path, None, tmp_path))}
    assert handed == {"q": ["q", "b"], "b": ["q", "b"], "e": ["q", "b", "e"], "s": ["q", "b", "e", "s"]}


def test_one_that_is_lost_ends_only_what_requires_it(ended_by: Callable[[Act], dict[str, Outcome]]) -> None:
    """The bench comes after the evaluation, and needs nothing of it."""

    def lose(stage: Stage) -> Outcome:
        if stage.verb == "baseline":
            raise RayError
        return ended(stage, "made")

    found = ended_by(lose)
    assert {key: one.state for key, one in found.items()} == {"q": "made", "b": "lost", "e": "skipped", "s": "made"}
    assert found["e"].error == "baseline came to nothing"


def test_one_that_fails_before_its_log_is_there_is_lost(ended_by: Callable[[Act], dict[str, Outcome]]) -> None:
    def fail(stage: Stage) -> Outcome:
        raise RayError(PermissionError("no room for logs\nmore"))

    found = ended_by(fail)
    assert {key: one.state for key, one in found.items()} == {"q": "lost", "b": "lost", "e": "skipped", "s": "skipped"}
    assert (found["q"].error, found["q"].log) == ("it did not begin: no room for logs", None)


def test_one_that_is_lost_names_its_log_and_attempts(
    ended_by: Callable[[Act], dict[str, Outcome]], tmp_path: Path
) -> None:
    def lose(stage: Stage) -> Outcome:
        for _ in range(2):
            log, _ = task._new_log(tmp_path / "logs", stage.file_name)
            log.write_text("quantpress\n")
        raise RayError

    found = ended_by(lose)["q"]
    assert (found.state, found.attempts, found.log) == ("lost", 2, str(tmp_path / "logs" / "m-q-quantize.2.log"))
    assert found.error == "lost in attempt 2: ray::_run() (pid=1)"


def test_ray_is_told_how_often_it_may_take_a_stage_down_for_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which it reads in the program that hands over the tasks; otherwise it begins one again without end."""
    seen: dict[str, str] = {}
    node = {"Alive": True, "Resources": {"CPU": 8.0, "memory": 1e9}}
    ray = SimpleNamespace(init=lambda **_: seen.update(os.environ), nodes=lambda: [node], shutdown=lambda: None)
    monkeypatch.setattr(cluster, "_ray", lambda: ray)
    monkeypatch.setattr(os, "environ", {"HOME": "/"})
    with cluster.connected("auto") as nodes:
        assert nodes == NODES
    assert seen["RAY_task_oom_retries"] == str(task.RETRIES)
