"""Gates: what an evaluation must show, decided against the interval of the figure and not the figure alone."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from quantpress.errors import InputError

METRICS = {"recovery": ">=", "kl": "<=", "flips": "<=", "perplexity_ratio": "<="}
_GATE = re.compile(
    r"^(?:(?P<task>[A-Za-z0-9_.-]+):)?(?P<metric>\w+) *(?P<sign>>=|<=|[<>=]) *(?P<value>\d+(?:\.\d+)?)(?P<percent>%?)$"
)
_HINT = "write a gate like recovery>=0.99, kl<=0.05, flips<=5% or arc_easy:recovery>=98%"


@dataclass(frozen=True)
class Gate:
    """`metric` of one task, or of the whole suite where `task` is None, must not pass `limit`."""

    text: str
    task: str | None
    metric: str
    limit: float


def parse(text: str, tasks: list[str]) -> Gate:
    """Reads a gate. Raises InputError naming what is wrong with it."""
    found = _GATE.match(text.strip())
    if not found:
        raise InputError(f"gate {text!r} is not METRIC>=NUMBER or METRIC<=NUMBER", hint=_HINT)
    metric, sign, task = found["metric"], found["sign"], found["task"]
    if metric not in METRICS:
        raise InputError(f"gate {text!r}: {metric!r} is not one of {', '.join(METRICS)}", hint=_HINT)
    if sign != METRICS[metric]:
        raise InputError(f"gate {text!r}: {metric} takes {METRICS[metric]}, not {sign}", hint=_HINT)
    if task is not None and task not in tasks:
        raise InputError(f"gate {text!r}: {task!r} is not a task of the suite", hint=f"its tasks: {', '.join(tasks)}")
    return Gate(text.strip(), task, metric, float(found["value"]) / (100 if found["percent"] else 1))


def decide(gate: Gate, result: dict[str, Any]) -> dict[str, Any]:
    """`pass` or `fail` where the whole interval is on one side of the limit, else `inconclusive`.

    `result` is an accuracy.json (`confidence` is that of its intervals); a figure that could not be computed (no task
    with a signal, a baseline with nothing right) is inconclusive.
    """
    row = (result["tasks"][gate.task] if gate.task else result["overall"]) or {}
    figure, interval = row.get(gate.metric), row.get(f"{gate.metric}_interval")
    decision = "inconclusive"
    if interval is not None:
        low, high = interval
        if METRICS[gate.metric] == ">=":
            decision = "pass" if low >= gate.limit else "fail" if high < gate.limit else decision
        else:
            decision = "pass" if high <= gate.limit else "fail" if low > gate.limit else decision
    return {"gate": gate.text, "figure": figure, "interval": interval, "decision": decision}


def is_below_the_noise(gate: Gate, floor: dict[str, Any] | None) -> bool:
    """Whether the gate asks for less KL divergence or fewer flips than mean anything; never for recovery."""
    meaningless = (floor or {}).get(gate.metric)
    return meaningless is not None and METRICS[gate.metric] == "<=" and gate.limit < meaningless
