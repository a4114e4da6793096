"""In which order the cells of a bench come, how often servers are started for them, and what ends it early."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from quantpress.artifact import speed
from quantpress.artifact.throughput import ALTERNATING, APART, ATTACHED, TOGETHER, Cell, Saturated
from quantpress.errors import StageError
from quantpress.model.source import Model
from quantpress_serve.bench import likelihoods, looks, run, servers, stage
from quantpress_serve.bench.load import Turn
from quantpress_serve.bench.looks import Known
from quantpress_serve.bench.pairing import Pairing
from quantpress_serve.bench.run import Run
from quantpress_serve.bench.starter import Starter
from quantpress_serve.bench.subject import Sides, Subject
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


class SpeedsOfSides(Speeds):
    """Output tokens/s by side and concurrency."""

    def __init__(self, **speeds: dict[int, float]) -> None:
        self.by_side = speeds

    def measure(self, server: Any, turn: Turn, others: Any = ()) -> Cell:
        self.speeds = self.by_side[turn.role]
        return super().measure(server, turn)


def alternated(load: Workload, generator: Any) -> tuple[Run, list[tuple[str, ...]]]:
    """What alternating servers make of a workload, and whose servers were up one after the other."""
    made, visits = Run(load, starts=run.times_started(load, ALTERNATING)), []
    for start in range(made.starts):
        for roles in made.visits(ALTERNATING, start):
            visits.append(roles)
            made.measure(generator, dict.fromkeys(roles, SERVERS["candidate"]), start)
    return made, visits


def test_side_by_side_the_side_that_gains_more_decides_on_saturation() -> None:
    speeds = SpeedsOfSides(candidate={8: 100.0, 16: 104.0, 32: 105.0}, baseline={8: 100.0, 16: 109.0, 32: 110.0})
    generator: Any = speeds
    made = Run(workload(concurrency=[8, 16, 32], until_saturated=True, rounds=2), starts=1)
    made.measure(generator, SERVERS, 0)
    assert made.saturated == Saturated(concurrency=32, gained=105.0 / 104.0 - 1, left_out=[])


def test_alternating_servers_take_turns_that_balance() -> None:
    made, visits = alternated(workload(concurrency=[1, 2], rounds=4), Speeds({1: 10.0, 2: 19.0}))
    c, b = ("candidate",), ("baseline",)
    assert visits == [c, b, b, c, c, b, b, c]
    seen = {role: [(x.start, x.round, x.concurrency) for x in made.cells if x.role == role] for role in SERVERS}
    assert seen["candidate"] == seen["baseline"] == [(n, n, at) for n in range(4) for at in (1, 2)]
    assert [len(ratios) for ratios in speed.pairs([x for x in made.cells if x.concurrency == 1])] == [1] * 4


def test_alternating_servers_are_started_for_every_round() -> None:
    once = workload(rounds=4, starts=1)
    assert [run.times_started(once, name) for name in (ALTERNATING, TOGETHER, APART, ATTACHED)] == [4, 1, 1, 1]
    assert run.times_started(workload(rounds=8, starts=4), ALTERNATING) == 4
    assert run.times_started(workload(rounds=2), ALTERNATING) == 2


def test_several_rounds_of_a_start_stay_paired_too() -> None:
    load = workload(concurrency=[1, 2, 4, 8, 16], until_saturated=True, rounds=8, starts=4)
    made, visits = alternated(load, SpeedsOfSides(candidate=STOPS_EARLY, baseline=RISES))
    assert visits[:4] == [("candidate",), ("baseline",), ("candidate",), ("baseline",)]
    seen = {role: {(x.start, x.round, x.concurrency) for x in made.cells if x.role == role} for role in SERVERS}
    assert seen["candidate"] == seen["baseline"] == {(n // 2, n, at) for n in range(8) for at in (1, 2, 4, 8)}
    assert len(made.cells) == 2 * 8 * 4


RISES = {1: 10.0, 2: 20.0, 4: 40.0, 8: 41.0, 16: 80.0}
STOPS_EARLY = {1: 10.0, 2: 10.2, 4: 10.3, 8: 20.0, 16: 40.0}


@pytest.mark.parametrize(
    ("candidate", "baseline", "comes_again"),
    [(STOPS_EARLY, RISES, ["candidate"]), (RISES, STOPS_EARLY, ["candidate"]), (RISES, RISES, [])],
    ids=["first side stops earlier", "second side gains again", "both stop at once"],
)
def test_alternating_servers_see_the_same_levels_until_both_are_saturated(
    candidate: dict[int, float], baseline: dict[int, float], comes_again: list[str]
) -> None:
    load = workload(concurrency=[1, 2, 4, 8, 16], until_saturated=True, rounds=4)
    made, visits = alternated(load, SpeedsOfSides(candidate=candidate, baseline=baseline))
    later = STOPS_EARLY if candidate is RISES and baseline is STOPS_EARLY else RISES
    furthest = 16 if later is STOPS_EARLY else 8
    assert [role for (role,) in visits[2 : len(visits) - 6]] == comes_again
    levels = {(x.role, x.round): [] for x in made.cells}
    for x in made.cells:
        levels[x.role, x.round].append(x.concurrency)
    expected = [at for at in load.concurrency if at <= furthest]
    assert all(own == expected for own in levels.values()), levels
    assert len(levels) == 8
    if furthest == 8:
        assert made.saturated == Saturated(concurrency=8, gained=41.0 / 40.0 - 1, left_out=[16])
    else:
        assert made.saturated is None  # one side still gained at the last level


def test_each_side_saturates_where_it_gains_no_more() -> None:
    made, _ = alternated(
        workload(concurrency=[1, 2, 4, 8], rounds=2), SpeedsOfSides(candidate=RISES, baseline=STOPS_EARLY)
    )
    assert [speed.saturates_at(made.cells, role) for role in ("candidate", "baseline")] == [8, 2]
    assert speed.saturates_at([x for x in made.cells if x.concurrency in (1, 4)], "candidate") is None


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
        self.started: list[tuple[int, ...]] = []
        self.judged: list[list[str]] = []

        @contextmanager
        def started(subject: Any, load: Any, sides: Any, start: Any, roles: Any) -> Iterator[Any]:
            self.started.append((start.number, *(start.spaces[role] for role in roles)))
            if at == "start" and start.number == fails_in:
                raise StageError("vLLM stopped while starting")
            yield dict.fromkeys(roles)

        class Failing(Speeds):
            def measure(self, server: Any, turn: Turn, others: Any = ()) -> Cell:
                if at == "load" and turn.start == fails_in:
                    raise StageError("the server of m stopped")
                return super().measure(server, turn)

        monkeypatch.setattr(servers, "started", started)

        def judged(seen: Any, *_: Any) -> Any:
            self.judged.append(sorted(seen))
            return Known(servers={}, served=likelihoods.unknown("no weights"), answers={}, picture=None)

        monkeypatch.setattr(looks, "expected", lambda subject: "no weights")
        monkeypatch.setattr(looks, "look_at", lambda *_: None)
        monkeypatch.setattr(looks, "judged", judged)
        monkeypatch.setattr(servers, "kv_spaces", lambda *_: {"candidate": 4, "baseline": 3})
        monkeypatch.setattr(stage, "Generator", lambda *_: Failing({1: 10.0}))

    def run(self, folder: Path, load: Workload, pairing: str = TOGETHER) -> Run:
        (folder / "config.json").write_text("{}")
        subject = Subject(
            name="m",
            folder=folder,
            digest="d",
            candidate=folder,
            model=Model("m", folder, "m", {}),
            model_digest="m",
            weight_bytes={"candidate": 1, "baseline": 2},
        )
        (folder.parent / "logs").mkdir(exist_ok=True)
        inputs = stage.inputs_of(subject, load, Path("vllm"), Sides())
        asked = stage._Asked(subject, load, inputs, Pairing(pairing, ""), goes_on=True)
        return stage._loaded(asked, Sides(), Starter(Path("vllm"), folder / "log", folder), folder)[0]


def test_servers_are_started_anew_with_the_same_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch)
    made = bench.run(tmp_path, workload(rounds=4))
    assert bench.started == [(0, 4, 3), (1, 4, 3), (2, 4, 3), (3, 4, 3)]
    assert [cell.start for cell in made.cells] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert bench.judged == [["baseline", "candidate"]]


def test_alternating_servers_are_judged_once_both_were_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch)
    made = bench.run(tmp_path, workload(rounds=4), ALTERNATING)
    assert bench.started == [(0, 4), (0, 3), (1, 3), (1, 4), (2, 4), (2, 3), (3, 3), (3, 4)]
    assert [cell.start for cell in made.cells] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert bench.judged == [["baseline", "candidate"]]


def test_servers_of_someone_else_are_not_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch)
    made = bench.run(tmp_path, workload(rounds=4), ATTACHED)
    assert len(bench.started) == 1
    assert len(made.cells) == 8


@pytest.mark.parametrize("pairing", [TOGETHER, ALTERNATING])
@pytest.mark.parametrize("at", ["load", "start"])
def test_a_failure_in_a_later_start_keeps_what_was_measured(
    at: str, pairing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Bench(monkeypatch, fails_in=2, at=at).run(tmp_path, workload(rounds=4), pairing)
    assert made.lost is not None
    assert [cell.start for cell in made.cells] == [0, 0, 1, 1]
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(StageError):
        Bench(monkeypatch, fails_in=0, at=at).run(other, workload(rounds=4), pairing)


@pytest.mark.parametrize("pairing", [TOGETHER, ALTERNATING])
def test_a_bench_that_was_stopped_goes_on_at_the_start_that_it_did_not_finish(
    pairing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = workload(rounds=4)
    stopped = Bench(monkeypatch, fails_in=2).run(tmp_path, load, pairing)
    bench = Bench(monkeypatch)
    made = bench.run(tmp_path, load, pairing)
    assert {number for number, *_ in bench.started} == {2, 3}
    assert [cell.start for cell in made.cells] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert made.cells[:4] == stopped.cells
    assert (made.base, made.sittings, made.ended, bench.judged) == (stopped.base, 2, None, [])


def test_what_was_kept_of_another_bench_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Bench(monkeypatch, fails_in=2).run(tmp_path, workload(rounds=4))
    for other in (workload(rounds=4, output_len=2), workload(rounds=4, name="another")):
        bench = Bench(monkeypatch, fails_in=1)
        bench.run(tmp_path, other)
        assert [number for number, *_ in bench.started] == [0, 1]
    bench = Bench(monkeypatch)
    bench.run(tmp_path, workload(rounds=4), ALTERNATING)
    assert len(bench.started) == 8
