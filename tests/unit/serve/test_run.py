"""In which order the cells of a bench come, how often servers are started for them, and what ends it early."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from quantpress.artifact.throughput import Cell, Saturated
from quantpress.errors import StageError
from quantpress_serve.bench import run, servers, stage
from quantpress_serve.bench.load import Turn
from quantpress_serve.bench.run import Run
from quantpress_serve.bench.subject import Sides
from quantpress_serve.workload.workload import Workload, load_workload

SERVERS: Any = {"baseline": None, "candidate": None}


def workload(**given: Any) -> Workload:
    about = {"name": "w", "description": "d", "input_len": 1, "output_len": 1, "requests_per_stream": 1}
    return Workload.model_validate({**about, "concurrency": [1], **given})


class Speeds:
    """Stands for the load generator: output tokens/s by concurrency, the same on both sides."""

    def __init__(self, speeds: dict[int, float]) -> None:
        self.speeds = speeds

    def measure(self, server: Any, turn: Turn, others: Any = ()) -> Cell:
        assert turn.level.concurrency
        figures = {"output_throughput": self.speeds[turn.level.concurrency]}
        about = {"concurrency": turn.level.concurrency, "round": turn.round, "start": turn.start}
        return Cell(role=turn.role, figures=figures, **about)


def test_the_concurrency_stops_rising_at_saturation() -> None:
    generator: Any = Speeds({1: 10.0, 2: 19.0, 4: 30.0, 8: 31.0, 16: 60.0})
    rising = workload(concurrency=[1, 2, 4, 8, 16], until_saturated=True, rounds=2)
    made = Run(rising, starts=1)
    made.measure(generator, SERVERS, 0)
    assert made.saturated == Saturated(concurrency=8, gained=31 / 30 - 1, left_out=[16])
    measured = [(cell.round, cell.concurrency, cell.role) for cell in made.cells]
    assert [number for number, _, role in measured if role == "candidate"] == [0] * 4 + [1] * 4
    assert {concurrency for _, concurrency, _ in measured} == {1, 2, 4, 8}
    assert measured[0][2] == "candidate"
    assert measured[8][2] == "baseline"  # the side that goes first alternates


def test_growth_is_that_of_the_side_that_gained_more() -> None:
    speeds = {("candidate", 8): 100.0, ("baseline", 8): 100.0, ("candidate", 16): 104.0, ("baseline", 16): 109.0}
    cells = [Cell(role=role, concurrency=at, figures={"output_throughput": x}) for (role, at), x in speeds.items()]
    assert run.growth(cells, 8, 16) == pytest.approx(0.09)


def test_rounds_are_shared_out_among_the_starts() -> None:
    generator: Any = Speeds({1: 10.0})
    made = Run(workload(rounds=6, starts=3), starts=3)
    for start in range(3):
        made.measure(generator, SERVERS, start)
    order = [(cell.start, cell.round) for cell in made.cells if cell.role == "candidate"]
    assert order == [(0, 0), (0, 1), (1, 2), (1, 3), (2, 4), (2, 5)]
    firsts = [cell.role for cell in made.cells[::2]]
    assert firsts == ["candidate", "baseline"] * 3


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"rounds": 3}, r"rounds 3: an even number \(or 1\), so that each side goes first equally often"),
        ({"starts": 2}, "starts 2: 1, or from 3 on a number that divides the 4 rounds"),
        ({"rounds": 8, "starts": 3}, "starts 3: .* divides the 8 rounds"),
    ],
)
def test_rounds_and_starts_that_do_not_balance_are_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        workload(**given)


def test_how_often_servers_are_started() -> None:
    assert [workload(rounds=number).times_started for number in (1, 2, 4, 8)] == [1, 1, 4, 8]
    assert workload(rounds=8, starts=4).times_started == 4
    assert [load_workload(name).times_started for name in ("glance", "smoke", "chat", "latency")] == [1, 1, 4, 4]


class Bench:
    """A bench whose servers are none; `started` notes them, and what happens in the given start is a failure."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fails_in: int | None = None, at: str = "load") -> None:
        self.started: list[tuple[int, int | None]] = []

        @contextmanager
        def started(subject: Any, load: Any, sides: Any, start: Any) -> Iterator[Any]:
            self.started.append((start.number, start.kv_space_gib))
            if at == "start" and start.number == fails_in:
                raise StageError("vLLM stopped while starting")
            yield SERVERS

        class Failing(Speeds):
            def measure(self, server: Any, turn: Turn, others: Any = ()) -> Cell:
                if at == "load" and turn.start == fails_in:
                    raise StageError("the server of m stopped")
                return super().measure(server, turn)

        monkeypatch.setattr(servers, "started", started)
        monkeypatch.setattr(stage, "_scored", lambda subject: "no weights")
        monkeypatch.setattr(servers, "kv_space", lambda *_: 3)
        monkeypatch.setattr(stage, "_looked_at", lambda *_: stage.Known({}, None, {}, None))  # type: ignore[arg-type]
        monkeypatch.setattr(stage, "Generator", lambda *_: Failing({1: 10.0}))

    def run(self, folder: Path, load: Workload, sides: Sides | None = None) -> Run:
        subject: Any = SimpleNamespace(logs=folder, name="m")
        return stage._loaded(subject, load, sides or Sides(), Path("vllm"), folder)[0]


def test_servers_are_started_anew_with_the_same_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch)
    made = bench.run(tmp_path, workload(rounds=4))
    assert bench.started == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert [cell.start for cell in made.cells] == [0, 0, 1, 1, 2, 2, 3, 3]


def test_servers_of_someone_else_are_not_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch)
    made = bench.run(tmp_path, workload(rounds=4), Sides(vllm_url="http://x"))
    assert len(bench.started) == 1
    assert len(made.cells) == 8


@pytest.mark.parametrize("at", ["load", "start"])
def test_a_failure_in_a_later_start_keeps_what_was_measured(
    at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Bench(monkeypatch, fails_in=2, at=at).run(tmp_path, workload(rounds=4))
    assert made.lost is not None
    assert [cell.start for cell in made.cells] == [0, 0, 1, 1]
    with pytest.raises(StageError):
        Bench(monkeypatch, fails_in=0, at=at).run(tmp_path, workload(rounds=4))
