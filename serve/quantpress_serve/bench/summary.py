"""What the cells say together: medians over rounds, the speed-up with its interval, and whether to believe it."""

from __future__ import annotations

import math
import statistics

from quantpress.artifact.throughput import (
    BASELINE,
    CANDIDATE,
    INDIFFERENCE,
    MIN_PAIRS,
    REQUEST,
    SERVER,
    Cell,
    Figures,
    Summary,
    in_brackets,
)

CONFIDENCE = 0.95
# (greatest - least) / median of one side's speed over the rounds. Beyond this the machine was not steady.
SPREAD = 0.15
# The concurrency rises no further once a step gains neither side more than this.
SATURATED = 0.05


def summarize(cells: list[Cell]) -> list[Summary]:
    """For each level of load: medians over rounds on both sides, and the ratio of their speeds pair by pair."""
    levels = sorted({cell.load for cell in cells}, key=lambda load: (load[0] or 0, load[1] or 0))
    return [_summary([cell for cell in cells if cell.load == level]) for level in levels]


def _summary(cells: list[Cell]) -> Summary:
    """Of cells under the same level of load."""
    concurrency, request_rate = cells[0].load
    sides: dict[str, dict[int, Figures]] = {}
    for cell in cells:
        sides.setdefault(cell.role, {})[cell.round] = cell.figures

    # How fast each side was in each round, and whether that can be believed.
    kind = SERVER if concurrency else REQUEST
    speeds = {role: _speeds(rounds, kind) for role, rounds in sides.items()}
    failed = {role: int(sum(figures.get("failed", 0) for figures in rounds.values())) for role, rounds in sides.items()}
    reasons = distrust(speeds, kind, failed, cells)

    # Pair by pair, where both sides were measured.
    ratios = mean = interval = said = None
    if {CANDIDATE, BASELINE} <= sides.keys():
        own, base = speeds[CANDIDATE], speeds[BASELINE]
        ratios = [own[number] / base[number] if base[number] else 0.0 for number in sorted(own.keys() & base.keys())]
        mean, interval = speedup(ratios)
        said = verdict(len(ratios), interval, reasons)

    return Summary(
        concurrency=concurrency,
        request_rate=request_rate,
        failed_requests=sum(failed.values()),
        speed=kind,
        spread={role: _spread(rounds) for role, rounds in speeds.items()},
        untrustworthy=reasons,
        candidate=_medians(sides[CANDIDATE]) if CANDIDATE in sides else None,
        baseline=_medians(sides[BASELINE]) if BASELINE in sides else None,
        ratios=ratios,
        speedup=mean,
        interval=interval,
        verdict=said,
    )


def _speeds(rounds: dict[int, Figures], kind: str) -> dict[int, float]:
    """By round, in tokens/s. Requests that arrive at a rate set the server's tokens/s themselves, as long as it keeps
    up; there, speed is that of a request, from its arrival on: all their tokens over the sum of their end-to-end
    latencies. That is the inverse of the normalized latency of vLLM's paper (Kwon et al. 2023, section 6), by tokens.
    """
    if kind == SERVER:
        return {number: figures["output_throughput"] for number, figures in rounds.items()}
    taken = {number: figures["mean_e2el_ms"] * figures["completed"] / 1000 for number, figures in rounds.items()}
    return {number: rounds[number]["total_output_tokens"] / time if time else 0.0 for number, time in taken.items()}


def _medians(rounds: dict[int, Figures]) -> Figures:
    """Of every figure that all rounds have."""
    shared = set.intersection(*(set(figures) for figures in rounds.values()))
    order = next(iter(rounds.values()))
    return {name: statistics.median(figures[name] for figures in rounds.values()) for name in order if name in shared}


def _spread(speeds: dict[int, float]) -> float | None:
    """(greatest - least) / median of the speeds; None for one round."""
    middle = statistics.median(speeds.values())
    return (max(speeds.values()) - min(speeds.values())) / middle if len(speeds) > 1 and middle else None


def distrust(speeds: dict[str, dict[int, float]], kind: str, failed: dict[str, int], cells: list[Cell]) -> list[str]:
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


def speedup(ratios: list[float]) -> tuple[float, tuple[float, float] | None]:
    """Geometric mean of the pairs' ratios and its 95% interval: Student's t on their logarithms.

    No interval for fewer than two pairs, or where one side made nothing at all.
    """
    if not ratios or min(ratios) <= 0:
        return 0.0, None
    from scipy import stats  # 0.5 s: only when there is something to sum up

    logs = [math.log(ratio) for ratio in ratios]
    middle = statistics.fmean(logs)
    if len(logs) < 2:
        return math.exp(middle), None
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(logs) - 1) * stats.sem(logs))
    return math.exp(middle), (math.exp(middle - half), math.exp(middle + half))


def verdict(pairs: int, interval: tuple[float, float] | None, reasons: list[str]) -> str:
    """`faster` or `slower` only if enough pairs, measured undisturbed, leave no other reading."""
    if reasons:
        return f"untrustworthy: {'; '.join(reasons)}"
    if pairs < MIN_PAIRS or interval is None:
        return f"no verdict: {pairs} pairs, {MIN_PAIRS} needed"
    if interval[0] > 1 + INDIFFERENCE:
        return "faster"
    if interval[1] < 1 - INDIFFERENCE:
        return "slower"
    return "no difference shown"


def growth(cells: list[Cell], before: int, now: int) -> float:
    """Growth of output tokens/s from one concurrency to the next in the first round, on the side that gained more."""
    first = [cell for cell in cells if not cell.round]
    speeds = {(cell.role, cell.concurrency): cell.figures["output_throughput"] for cell in first}
    roles = {role for role, _ in speeds}
    return max(speeds[role, now] / speeds[role, before] - 1 if speeds[role, before] else math.inf for role in roles)
