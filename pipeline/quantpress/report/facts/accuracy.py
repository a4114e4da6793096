"""What the report takes from accuracy.json."""

from __future__ import annotations

from quantpress.artifact.accuracy import Accuracy, Comparison, Figures, Gate, Overall, TaskRow
from quantpress.report.facts.fields import Data


def accuracy(result: Comparison) -> Data:
    """accuracy.json, or the result of `compare`, as the report shows it."""
    overall = result.overall or Overall()
    return {
        **_circumstances(result if isinstance(result, Accuracy) else None),
        "documents": result.documents,
        "tasks": [_task(name, row) for name, row in result.tasks.items()],
        "counts_no_signal": result.counts_no_signal,
        "mean": result.mean.dump(),
        "overall": _paired(overall),
        "together": {"difference": _figure(overall, "difference"), "p_value": overall.p_value},
        "gates": [_gate(gate) for gate in result.gates],
    }


def _circumstances(result: Accuracy | None) -> Data:
    """What `evaluate` knows and `compare` does not."""
    settings = result.settings if result else None
    floor = result.noise_floor if result else None
    return {
        "suite": result.suite if result else None,
        "backend": settings.backend if settings else None,
        "device": settings.device if settings else None,
        "limit": settings.limit if settings else None,
        "versions": settings.versions if settings else {},
        "machine": result.machine.dump() if result else None,
        "noise_floor": _paired(floor) if floor else None,
        "commands": {side: run.command for side, run in result.runs.items()} if result else {},
    }


def _task(name: str, row: TaskRow) -> Data:
    return {
        "task": name,
        "metric": row.metric,
        "documents": row.documents,
        "baseline": row.baseline,
        "candidate": row.candidate,
        "p_value": row.p_value,
        "significant": row.significant,
        "lost": row.lost,
        "gained": row.gained,
        "guessing": row.guessing,
        "weight": row.weight,
        "no_signal": row.no_signal,
        "difference": _figure(row, "difference"),
        **_paired(row),
    }


def _paired(figures: Figures) -> Data:
    """Recovery, flipped answers, KL and perplexity ratio."""
    return {name: _figure(figures, name) for name in ("recovery", "flips", "kl", "perplexity_ratio")}


def _figure(figures: Figures, name: str) -> Data:
    """A figure with its interval, each None where there is none."""
    interval = figures.interval(name)
    return {"value": figures.value(name), "interval": list(interval) if interval else None}


def _gate(gate: Gate) -> Data:
    return {
        "gate": gate.gate,
        "value": gate.figure,
        "interval": list(gate.interval) if gate.interval else None,
        "confidence": gate.confidence,
        "documents": gate.documents,
        "decision": gate.decision,
    }
