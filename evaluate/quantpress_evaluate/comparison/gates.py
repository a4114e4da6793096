"""Gates: what an evaluation must show, decided against the interval of the figure and not the figure alone."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from quantpress.artifact.accuracy import Comparison, Decision, Figures, Gate
from quantpress.errors import InputError

METRICS = {"recovery": ">=", "kl": "<=", "flips": "<=", "perplexity_ratio": "<="}
_GATE = re.compile(
    r"^(?:(?P<task>[A-Za-z0-9_.-]+):)?(?P<metric>\w+) *(?P<sign>>=|<=|[<>=]) *(?P<value>\d+(?:\.\d+)?)(?P<percent>%?)$"
)
_HINT = "write a gate like recovery>=0.99, kl<=0.05, flips<=5% or arc_easy:recovery>=98%"


@dataclass(frozen=True)
class Requirement:
    """What a gate asks for: `metric` of one task, or of the whole suite where `task` is None, must not pass `limit`."""

    text: str
    task: str | None
    metric: str
    limit: float


def parse(text: str) -> Requirement:
    """Reads a gate. Raises InputError naming what is wrong with it; `require_tasks` knows whether there is its task."""
    found = _GATE.match(text.strip())
    if not found:
        raise InputError(f"gate {text!r} is not METRIC>=NUMBER or METRIC<=NUMBER", hint=_HINT)
    metric, sign = found["metric"], found["sign"]
    if metric not in METRICS:
        raise InputError(f"gate {text!r}: {metric!r} is not one of {', '.join(METRICS)}", hint=_HINT)
    if sign != METRICS[metric]:
        raise InputError(f"gate {text!r}: {metric} takes {METRICS[metric]}, not {sign}", hint=_HINT)
    limit = float(found["value"]) / (100 if found["percent"] else 1)
    return Requirement(text.strip(), found["task"], metric, limit)


def require_tasks(gates: Iterable[Requirement], tasks: Sequence[str], groups: Collection[str] = ()) -> None:
    """Raises InputError for a gate of a task that is not there; a group has figures for each of its tasks alone."""
    for gate in gates:
        if gate.task is None or gate.task in tasks:
            continue
        what = "is a group" if gate.task in groups else "is not a task of the suite"
        raise InputError(f"gate {gate.text!r}: {gate.task!r} {what}", hint=f"its tasks: {', '.join(tasks)[:400]}")


def decide(gate: Requirement, comparison: Comparison) -> Gate:
    """`pass` or `fail` where the whole interval is on one side of the limit, else `inconclusive`.

    A figure that could not be computed (no task with a signal, a baseline with nothing right) is inconclusive, and so
    is what was not scored alike or lacks a task that was left out.
    """
    figures = comparison.tasks.get(gate.task) if gate.task else comparison.overall
    figure, interval = (figures.value(gate.metric), figures.interval(gate.metric)) if figures else (None, None)
    decision: Decision = "inconclusive"
    reason = _obstacle(gate, comparison)
    if interval is not None and reason is None:
        low, high = interval
        if METRICS[gate.metric] == ">=":
            decision = "pass" if low >= gate.limit else "fail" if high < gate.limit else decision
        else:
            decision = "pass" if high <= gate.limit else "fail" if low > gate.limit else decision
    return Gate(gate=gate.text, figure=figure, interval=interval, decision=decision, reason=reason)


def _obstacle(gate: Requirement, comparison: Comparison) -> str | None:
    """Why the gate cannot be decided, whatever its figure is."""
    out = [item for item in comparison.left_out if gate.task in (None, item.task)]
    if out:
        first = "; ".join(f"{item.task}: {item.reason}" for item in out[:3])
        return f"left out: {first}" + (f"; and {len(out) - 3} more" if len(out) > 3 else "")
    row = comparison.tasks.get(gate.task) if gate.task else None
    if row and row.no_signal and gate.metric == "recovery" and not comparison.counts_no_signal:
        return f"the model itself only guesses on {gate.task}: keeping that is keeping nothing"
    unlike = sorted({item.what for item in comparison.differences if gate.task in (None, item.task)})
    return f"the two were not scored alike: other {', '.join(unlike)}" if unlike else None


def is_below_the_noise(gate: Requirement, floor: Figures | None) -> bool:
    """Whether the gate asks for less KL divergence or fewer flips than mean anything; never for recovery."""
    meaningless = floor.value(gate.metric) if floor else None
    return meaningless is not None and METRICS[gate.metric] == "<=" and gate.limit < meaningless
