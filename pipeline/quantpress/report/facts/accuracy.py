"""What the report takes from accuracy.json."""

from __future__ import annotations

from quantpress.report.facts.fields import Data, figure, get


def accuracy(result: Data) -> Data:
    """accuracy.json, or the result of `compare`, as the report shows it."""
    settings = get(result, "settings", default={})
    tasks = [{"task": name, **_task(row)} for name, row in result["tasks"].items()]
    return {
        "suite": get(result, "suite"),
        "backend": get(result, "backend", default=get(settings, "backend")),
        "device": get(settings, "device"),
        "limit": get(settings, "limit"),
        "versions": get(settings, "versions", default={}),
        "machine": get(result, "machine"),
        "documents": sum(task["documents"] or 0 for task in tasks),
        "tasks": tasks,
        "counts_no_signal": bool(get(result, "counts_no_signal", default=False)),
        "mean": _mean(get(result, "mean")),
        "overall": _paired(get(result, "overall", default={})),
        "together": _together(get(result, "overall", default={})),
        "noise_floor": _paired(result["noise_floor"]) if result.get("noise_floor") else None,
        "gates": [_gate(gate) for gate in get(result, "gates", default=[])],
        "commands": {side: get(run, "command") for side, run in get(result, "runs", default={}).items()},
    }


def _task(row: Data) -> Data:
    plain = (
        "metric",
        "documents",
        "baseline",
        "candidate",
        "p_value",
        "significant",
        "lost",
        "gained",
        "guessing",
        "weight",
    )
    return {
        **{name: get(row, name) for name in plain},
        "no_signal": bool(get(row, "no_signal", default=False)),
        "difference": figure(row, "difference"),
        **_paired(row),
    }


def _paired(row: Data) -> Data:
    """Recovery, flipped answers, KL and perplexity ratio."""
    return {name: figure(row, name) for name in ("recovery", "flips", "kl", "perplexity_ratio")}


def _together(overall: Data) -> Data:
    """The difference over the tasks that count, and McNemar's test on all their documents."""
    return {"difference": figure(overall, "difference"), "p_value": get(overall, "p_value")}


def _mean(mean: Data | None) -> Data:
    return {name: get(mean, name) for name in ("tasks", "baseline", "candidate")}


def _gate(gate: Data) -> Data:
    return {
        "gate": str(gate["gate"]),
        "value": get(gate, "figure"),
        "interval": get(gate, "interval"),
        "confidence": get(gate, "confidence"),
        "documents": get(gate, "documents"),
        "decision": str(gate["decision"]),
    }
