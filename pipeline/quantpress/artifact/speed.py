"""What the cells of a bench say together: medians over rounds, the ratios of both sides, and whether to believe them.

Bench, report and suggestions all sum up cells here, so a result of an earlier version is decided by today's rules.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from itertools import pairwise

from quantpress.artifact.throughput import (
    BASELINE,
    CANDIDATE,
    REQUEST,
    SERVER,
    Cell,
    Figures,
    Summary,
    in_brackets,
)
from quantpress.statistics import ratios
from quantpress.statistics.ratios import Estimate

# The concurrency rises no further once a step gains no side more than this; so a server is saturated.
SATURATED = 0.05
# (greatest - least) / median of one side's speed over the rounds. Beyond this the machine was not steady.
SPREAD = 0.15


def summarize(cells: Sequence[Cell]) -> list[Summary]:
    """For each level of load: medians over rounds on both sides, and the ratio of their speeds pair by pair."""
    levels = sorted({cell.load for cell in cells}, key=lambda load: (load[0] or 0, load[1] or 0))
    return [_summary([cell for cell in cells if cell.load == level]) for level in levels]


def _summary(cells: list[Cell]) -> Summary:
    """Of cells under the same level of load."""
    concurrency, request_rate = cells[0].load
    sides: dict[str, list[Cell]] = {}
    for cell in cells:
        sides.setdefault(cell.role, []).append(cell)

    # How fast each side was in each round, and whether that can be believed.
    kind = SERVER if concurrency else REQUEST
    speeds = {role: [speed for cell in own if (speed := speed_of(cell)) is not None] for role, own in sides.items()}
    failed = {role: int(sum(cell.figures.get("failed", 0) for cell in own)) for role, own in sides.items()}
    reasons = distrust(speeds, kind, failed, cells)

    # Pair by pair, where both sides were measured.
    both = {CANDIDATE, BASELINE} <= sides.keys()
    by_start = pairs(cells) if both else []
    found = ratios.estimate(by_start)
    return Summary(
        concurrency=concurrency,
        request_rate=request_rate,
        failed_requests=sum(failed.values()),
        speed=kind,
        spread={role: _spread(rounds) for role, rounds in speeds.items()},
        untrustworthy=reasons,
        candidate=_medians(sides[CANDIDATE]) if CANDIDATE in sides else None,
        baseline=_medians(sides[BASELINE]) if BASELINE in sides else None,
        ratios=[ratio for own in by_start for ratio in own] if both else None,
        starts=found.starts if both else None,
        speedup=found.value if both else None,
        interval=found.interval if both else None,
        verdict=ratios.verdict(found, reasons) if both else None,
    )


def pairs(cells: Sequence[Cell], key: str | None = None, more_is_better: bool = True) -> list[list[float]]:
    """The candidate's figure over the baseline's, pair by pair, by start of the servers; above 1 is better for
    latencies too. Of cells under one level of load; `key` is vLLM's name of the figure, None for what is called speed.

    A pair counts if both sides have the figure, and it is not 0: a side that made nothing has failed requests.
    """
    sides: dict[str, dict[tuple[int, int], float]] = {CANDIDATE: {}, BASELINE: {}}
    for cell in cells:
        value = cell.figures.get(key) if key else speed_of(cell)
        if value and math.isfinite(value):
            sides[cell.role][cell.start, cell.round] = value
    own, base = sides[CANDIDATE], sides[BASELINE]
    by_start: dict[int, list[float]] = {}
    for start, number in sorted(own.keys() & base.keys()):
        ratio = own[start, number] / base[start, number]
        by_start.setdefault(start, []).append(ratio if more_is_better else 1 / ratio)
    return list(by_start.values())


def ratio_of(cells: Sequence[Cell], key: str | None = None, more_is_better: bool = True) -> Estimate:
    """How many times better the candidate is by this figure: `pairs` as one estimate."""
    return ratios.estimate(pairs(cells, key, more_is_better))


def growth(cells: Sequence[Cell], role: str, before: int, now: int) -> float:
    """Of one side's output tokens/s from one concurrency to another, by the medians over the rounds."""
    speeds = [
        statistics.median(cell.figures["output_throughput"] for cell in cells if (cell.role, cell.concurrency) == at)
        for at in ((role, before), (role, now))
    ]
    return speeds[1] / speeds[0] - 1 if speeds[0] else math.inf


def saturates_at(cells: Sequence[Cell], role: str) -> int | None:
    """The least concurrency to which one side gained no more than SATURATED; None where it always gained more."""
    levels = sorted({cell.concurrency for cell in cells if cell.role == role and cell.concurrency})
    return next((now for before, now in pairwise(levels) if growth(cells, role, before, now) <= SATURATED), None)


def speed_of(cell: Cell) -> float | None:
    """In tokens/s. Requests that arrive at a rate set the server's tokens/s themselves, as long as it keeps up; there,
    speed is that of a request, from its arrival on: all their tokens over the sum of their end-to-end latencies. That
    is the inverse of the normalized latency of vLLM's paper (Kwon et al. 2023, section 6), by tokens. None where the
    load generator did not tell it.
    """
    figures = cell.figures
    if cell.concurrency:
        return figures.get("output_throughput")
    needed = [figures.get(name) for name in ("mean_e2el_ms", "completed", "total_output_tokens")]
    if None in needed:
        return None
    latency, completed, tokens = (number or 0 for number in needed)
    return tokens / (latency * completed / 1000) if latency and completed else 0.0


def _medians(cells: list[Cell]) -> Figures:
    """Of every figure that all rounds have."""
    shared = set.intersection(*(set(cell.figures) for cell in cells))
    order = cells[0].figures
    return {name: statistics.median(cell.figures[name] for cell in cells) for name in order if name in shared}


def _spread(speeds: list[float]) -> float | None:
    """(greatest - least) / median of the speeds; None for one round."""
    middle = statistics.median(speeds) if speeds else 0.0
    return (max(speeds) - min(speeds)) / middle if len(speeds) > 1 and middle else None


def distrust(speeds: dict[str, list[float]], kind: str, failed: dict[str, int], cells: list[Cell]) -> list[str]:
    """Why these cells cannot be trusted; nothing where they can."""
    reasons = []
    for role, number in failed.items():
        if number:
            of = {reason: count for cell in cells if cell.role == role for reason, count in cell.errors.items()}
            reasons.append(f"{number} request{'s' * (number > 1)} to the {role} failed{in_brackets(of)}")
    for role, rounds in speeds.items():
        if (spread := _spread(rounds)) and spread > SPREAD:
            reasons.append(f"the {role}'s {kind} spread by {spread:.0%} over the rounds (bound {SPREAD:.0%})")
    if marked := [cell for cell in cells if cell.untrustworthy]:
        worst = max(marked, key=lambda cell: (cell.machine.other_work if cell.machine else None) or 0.0)
        reasons.append(f"in {len(marked)} of {len(cells)} cells {'; '.join(worst.untrustworthy)}")
    return reasons
