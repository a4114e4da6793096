"""What the cells say together: medians over rounds, the speed-up with its interval, and whether to believe it."""

from __future__ import annotations

import math
import statistics
from typing import Any

from quantpress.artifact.throughput import INDIFFERENCE, MIN_PAIRS, REQUEST, SERVER

CONFIDENCE = 0.95
# (greatest - least) / median of one side's speed over the rounds. Beyond this the machine was not steady.
SPREAD = 0.15
# The concurrency rises no further once a step gains neither side more than this.
SATURATED = 0.05

Cell = dict[str, Any]


def summarize(cells: list[Cell]) -> list[dict[str, Any]]:
    """For each strength of load: medians over rounds on both sides, and the ratio of their speeds pair by pair."""
    levels = {(cell["concurrency"], cell.get("request_rate")) for cell in cells}
    return [
        _summary([cell for cell in cells if (cell["concurrency"], cell.get("request_rate")) == level])
        for level in sorted(levels, key=lambda level: (level[0] or 0, level[1] or 0))
    ]


def _summary(cells: list[Cell]) -> dict[str, Any]:
    sides: dict[str, dict[int, dict[str, float]]] = {}
    for cell in cells:
        sides.setdefault(cell["role"], {})[cell["round"]] = cell["figures"]
    failed = {role: int(sum(figures.get("failed", 0) for figures in rounds.values())) for role, rounds in sides.items()}
    kind = SERVER if cells[0]["concurrency"] else REQUEST
    speeds = {role: _speeds(rounds, kind) for role, rounds in sides.items()}
    reasons = distrust(speeds, kind, failed, cells)
    summary: dict[str, Any] = {
        "concurrency": cells[0]["concurrency"],
        "request_rate": cells[0].get("request_rate"),
        "failed_requests": sum(failed.values()),
        "speed": kind,
        "spread": {role: _spread(rounds) for role, rounds in speeds.items()},
        "untrustworthy": reasons,
        **{role: _medians(rounds) for role, rounds in sides.items()},
    }
    if {"candidate", "baseline"} <= sides.keys():
        own, base = speeds["candidate"], speeds["baseline"]
        ratios = [own[number] / base[number] if base[number] else 0.0 for number in sorted(own.keys() & base.keys())]
        mean, interval = speedup(ratios)
        summary |= {"ratios": ratios, "speedup": mean, "interval": interval}
        summary["verdict"] = verdict(len(ratios), interval, reasons)
    return summary


def _speeds(rounds: dict[int, dict[str, float]], kind: str) -> dict[int, float]:
    """By round, in tokens/s. Requests that arrive at a rate set the server's tokens/s themselves, as long as it keeps
    up; there, speed is that of a request, from its arrival on: all their tokens over the sum of their end-to-end
    latencies. That is the inverse of the normalized latency of vLLM's paper (Kwon et al. 2023, section 6), by tokens.
    """
    if kind == SERVER:
        return {number: figures["output_throughput"] for number, figures in rounds.items()}
    taken = {number: figures["mean_e2el_ms"] * figures["completed"] / 1000 for number, figures in rounds.items()}
    return {number: rounds[number]["total_output_tokens"] / time if time else 0.0 for number, time in taken.items()}


def _medians(rounds: dict[int, dict[str, float]]) -> dict[str, float]:
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
    reasons = [f"{number} requests to the {role} failed" for role, number in failed.items() if number]
    for role, rounds in speeds.items():
        if (spread := _spread(rounds)) and spread > SPREAD:
            reasons.append(f"the {role}'s {kind} spread by {spread:.0%} over the rounds (bound {SPREAD:.0%})")
    marked = [cell for cell in cells if cell.get("untrustworthy")]
    if marked:
        worst = max(marked, key=lambda cell: cell["machine"].get("other_work", 0.0))
        reasons.append(f"in {len(marked)} of {len(cells)} cells {'; '.join(worst['untrustworthy'])}")
    return reasons


def speedup(ratios: list[float]) -> tuple[float, list[float] | None]:
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
    return math.exp(middle), [math.exp(middle - half), math.exp(middle + half)]


def verdict(pairs: int, interval: list[float] | None, reasons: list[str]) -> str:
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
    speeds = {
        (cell["role"], cell["concurrency"]): cell["figures"]["output_throughput"] for cell in cells if not cell["round"]
    }
    roles = {role for role, _ in speeds}
    return max(speeds[role, now] / speeds[role, before] - 1 if speeds[role, before] else math.inf for role in roles)
