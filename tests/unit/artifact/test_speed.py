"""What cells say together, and when it is believed."""

import json
from pathlib import Path
from typing import Any

import pytest

from quantpress.artifact import speed, throughput
from quantpress.artifact.throughput import Cell, Disturbance, Summary

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
    (row,) = speed.summarize(cells({"candidate": candidate, "baseline": baseline}, **more))
    return row


@pytest.mark.parametrize(
    ("candidate", "expected"),
    [
        ([151.0, 149.0, 150.0], "faster"),
        ([70.0, 69.0, 71.0], "slower"),
        ([101.0, 99.0, 100.0], "no difference shown"),
        ([112.0, 102.0, 104.0, 108.0], "no difference shown"),  # every pair ahead, but not for certain
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
    (row,) = speed.summarize([with_figures(made[0], failed=2), *made[1:]])
    assert row.failed_requests == 2
    assert row.verdict == "untrustworthy: 2 requests to the candidate failed"


def test_other_work_is_no_speedup() -> None:
    seen = Disturbance(other_work=0.4, stolen=0.01)
    row = summed([246.0] * 3, [100.0] * 3, machine=seen, untrustworthy=["other programs took 40% of the cores"])
    assert row.verdict == "untrustworthy: in 6 of 6 cells other programs took 40% of the cores"


def test_every_figure_of_vllm_is_in_the_summary() -> None:
    row = summed([100.0] * 3, [100.0] * 3).candidate
    assert row
    for metric in ("ttft", "tpot", "itl", "e2el"):
        assert {f"{kind}_{metric}_ms" for kind in ("mean", "p50", "p90", "p99")} <= row.keys()
    assert {"output_throughput", "total_token_throughput", "request_throughput", "request_goodput"} <= row.keys()


def test_rates_and_concurrencies_have_rows_of_their_own() -> None:
    made = cells({"candidate": [1.0]}, request_rate=None)
    made += cells({"candidate": [1.0]}, concurrency=None, request_rate=2.0)
    assert [row.load for row in speed.summarize(made)] == [(None, 2.0), (8, None)]


def test_at_a_request_rate_the_speed_is_that_of_a_request() -> None:
    """Both sides keep up with the requests, so the tokens/s are equal; the candidate takes half the time."""
    taken = {"candidate": 1000.0, "baseline": 2000.0}
    measured = cells({role: [50.0, 50.1, 50.2] for role in taken}, concurrency=None, request_rate=2.0)
    made = [with_figures(cell, mean_e2el_ms=taken[cell.role]) for cell in measured]
    (row,) = speed.summarize(made)
    assert row.speed == throughput.REQUEST
    assert (row.speedup, row.verdict) == (pytest.approx(2.0), "faster")
    (row,) = speed.summarize([with_figures(made[0], mean_e2el_ms=1300.0), *made[1:]])
    assert row.verdict
    assert "the candidate's output tokens/s of a request spread by 23%" in row.verdict
