"""What cells say together, when it is believed, and whether the machine was left alone meanwhile."""

import json
import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from quantpress.artifact import throughput
from quantpress.artifact.throughput import Cell, Disturbance, Summary
from quantpress_serve.bench import interference, summary

FIGURES = json.loads((Path(__file__).parents[1] / "recorded" / "bench.json").read_text())


def cells(speeds: dict[str, list[float]], **more: Any) -> list[Cell]:
    """Cells at concurrency 8 with the figures of a real one, but for the output tokens/s of each round."""
    numbers = {name: value for name, value in FIGURES.items() if isinstance(value, int | float)}
    made = {"concurrency": 8, **more}
    return [
        Cell(role=role, round=number, figures=numbers | {"output_throughput": speed}, **made)
        for role, rounds in speeds.items()
        for number, speed in enumerate(rounds)
    ]


def with_figures(cell: Cell, **figures: float) -> Cell:
    return cell.model_copy(update={"figures": cell.figures | figures})


def summed(candidate: list[float], baseline: list[float], **more: Any) -> Summary:
    (row,) = summary.summarize(cells({"candidate": candidate, "baseline": baseline}, **more))
    return row


def test_the_speedup_is_the_geometric_mean_of_pairs_with_students_interval() -> None:
    mean, interval = summary.speedup([1.2, 1.5, 1.3])
    assert mean == pytest.approx((1.2 * 1.5 * 1.3) ** (1 / 3))
    # By hand: logs 0.18232, 0.40547, 0.26236; mean 0.28338, standard error 0.06527; t(0.975, 2) = 4.30265.
    assert interval == pytest.approx([math.exp(0.28338 - 0.28083), math.exp(0.28338 + 0.28083)], rel=1e-3)
    assert summary.speedup([1.2]) == (pytest.approx(1.2), None)
    assert summary.speedup([1.2, 1.2, 1.2])[1] == pytest.approx([1.2, 1.2])
    assert summary.speedup([1.2, 0.0]) == (0.0, None)


@pytest.mark.parametrize(
    ("candidate", "expected"),
    [
        ([151.0, 149.0, 150.0], "faster"),
        ([70.0, 69.0, 71.0], "slower"),
        ([101.0, 99.0, 100.0], "no difference shown"),
        ([112.0, 102.0, 104.0], "no difference shown"),  # every pair ahead, but not for certain
        ([150.0, 151.0], "no verdict: 2 pairs, 3 needed"),
        ([102.0, 102.1, 102.2], "no difference shown"),  # for certain, but within what does not matter
    ],
)
def test_a_verdict_needs_pairs_and_an_interval_that_says_so(candidate: list[float], expected: str) -> None:
    assert summed(candidate, [100.0] * len(candidate)).verdict == expected


def test_a_spread_beyond_the_bound_is_no_speedup() -> None:
    row = summed([150.0, 150.0, 150.0], [100.0, 101.0, 80.0])
    assert row.verdict
    assert row.verdict.startswith("untrustworthy: the baseline's output tokens/s spread by 21% over the rounds")
    assert row.spread == {"candidate": 0.0, "baseline": pytest.approx(0.21)}
    assert row.speedup == pytest.approx(1.6, rel=0.1)


def test_failed_requests_are_no_speedup() -> None:
    made = cells({"candidate": [150.0] * 3, "baseline": [100.0] * 3})
    (row,) = summary.summarize([with_figures(made[0], failed=2), *made[1:]])
    assert row.failed_requests == 2
    assert row.verdict == "untrustworthy: 2 requests to the candidate failed"


def test_other_work_is_no_speedup() -> None:
    seen = Disturbance(other_work=0.4, stolen=0.01)
    row = summed([246.0] * 3, [100.0] * 3, machine=seen, untrustworthy=interference.problems(seen))
    assert row.verdict == "untrustworthy: in 6 of 6 cells other programs took 40% of the cores (bound 10%)"


def test_every_figure_of_vllm_is_in_the_summary() -> None:
    row = summed([100.0] * 3, [100.0] * 3).candidate
    assert row
    for metric in ("ttft", "tpot", "itl", "e2el"):
        assert {f"{kind}_{metric}_ms" for kind in ("mean", "p50", "p90", "p99")} <= row.keys()
    assert {"output_throughput", "total_token_throughput", "request_throughput", "request_goodput"} <= row.keys()


def test_rates_and_concurrencies_have_rows_of_their_own() -> None:
    made = cells({"candidate": [1.0]}, request_rate=None)
    made += cells({"candidate": [1.0]}, concurrency=None, request_rate=2.0)
    assert [row.load for row in summary.summarize(made)] == [(None, 2.0), (8, None)]


def test_at_a_request_rate_the_speed_is_that_of_a_request() -> None:
    """Both sides keep up with the requests, so the tokens/s are equal; the candidate takes half the time."""
    taken = {"candidate": 1000.0, "baseline": 2000.0}
    measured = cells({role: [50.0, 50.1, 50.2] for role in taken}, concurrency=None, request_rate=2.0)
    made = [with_figures(cell, mean_e2el_ms=taken[cell.role]) for cell in measured]
    (row,) = summary.summarize(made)
    assert row.speed == throughput.REQUEST
    assert (row.speedup, row.verdict) == (pytest.approx(2.0), "faster")
    (row,) = summary.summarize([with_figures(made[0], mean_e2el_ms=1300.0), *made[1:]])
    assert row.verdict
    assert "the candidate's output tokens/s of a request spread by 23%" in row.verdict


def test_growth_is_that_of_the_side_that_gained_more() -> None:
    made = cells({"candidate": [100.0], "baseline": [100.0]})
    made += cells({"candidate": [104.0], "baseline": [109.0]}, concurrency=16)
    assert summary.growth(made, 8, 16) == pytest.approx(0.09)


BURN = "import time\nwhile time.process_time() < 1: pass"


def test_what_our_children_use_is_ours() -> None:
    before = interference.Sample.take()
    subprocess.run([sys.executable, "-c", BURN], check=True)
    assert interference.Sample.take().ours - before.ours >= 0.9


def test_other_programs_are_seen(tmp_path: Path) -> None:
    """Another process watches; to it, this one and what it starts are other programs."""
    code = "import json, sys; from pathlib import Path; from quantpress_serve.bench import interference\n"
    code += (
        f"with interference.watching(Path({str(tmp_path)!r})) as watch: print('ready', flush=True); sys.stdin.read()\n"
    )
    code += "print(json.dumps(watch.seen.dump()))"
    words = [sys.executable, "-c", code]
    started = time.monotonic()
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as watcher:
        assert watcher.stdout is not None
        watcher.stdout.readline()
        subprocess.run([sys.executable, "-c", BURN], check=True)
        shares = json.loads(watcher.communicate()[0])
    least = 0.9 / (time.monotonic() - started) / interference.Sample.take().cores
    known = {name for name, share in shares.items() if share is not None}
    assert known == {"other_work", "stolen", "throttled", "other_gpu_processes"}
    assert shares["other_work"] > least


def test_what_nvidia_smi_says_of_its_clocks() -> None:
    """In the format that --query-gpu=clocks_event_reasons.* prints; no GPU was at hand to record it."""
    cool, hot = "Not Active, Not Active, Not Active, Not Active\n", "Active, Active, Not Active, Not Active\n"
    assert interference.slowed_share(cool * 3) == 0
    assert interference.slowed_share(cool * 3 + hot) == 0.25
    assert interference.slowed_share("") is None
    assert interference.problems(Disturbance(gpu_slowed=0.25)) == [
        "heat or power held a GPU's clock down for 25% of the time (bound 5%)"
    ]
    assert interference.problems(Disturbance(other_gpu_processes=2)) == ["2 other processes used the GPU"]
