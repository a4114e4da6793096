"""What the report takes from throughput.json: figures over rounds, and ratios pair by pair."""

from __future__ import annotations

from statistics import median
from typing import Any

from quantpress.artifact import truth
from quantpress.artifact.throughput import REQUEST
from quantpress.report.facts.fields import Data, get, number

# What vLLM's load generator measures, by our names: its key, and whether more is better.
METRICS = {
    "output_tokens_s": ("output_throughput", True),
    "ttft_ms": ("median_ttft_ms", False),
    "tpot_ms": ("median_tpot_ms", False),
    "e2el_ms": ("median_e2el_ms", False),
    "ttft_p99_ms": ("p99_ttft_ms", False),
    "tpot_p99_ms": ("p99_tpot_ms", False),
}
SIDES = ("baseline", "candidate")


def speed(result: Data) -> Data:
    """throughput.json as the report shows it."""
    servers = get(result, "servers", default={})
    return {
        "workload": get(result, "workload", default={}),
        "weights": get(result, "weights", default=get(result, "inputs", "weights", default="real")),
        "machine": get(result, "machine", default={}),
        "foreign": [get(one, "command", default="") for one in servers.values() if get(one, "startup_s") is None],
        "vllm": get(result, "vllm", "version"),
        "untrustworthy": reasons(result),
        "notes": notes(result),
        "points": [_point(cell, result) for cell in result["summary"]],
        "answers": answers(result),
        "served": get(result, "served"),
        "servers": {side: _server(servers.get(side)) for side in SIDES},
        "commands": _commands(result, servers),
    }


def level(point: Data) -> str:
    """How strong a load was, in words."""
    if get(point, "concurrency") is not None:
        return f"{point['concurrency']} at once"
    return f"{get(point, 'request_rate', default=0.0):g} requests/s"


def notes(result: Data) -> list[str]:
    """What a person must know beside the figures."""
    found = []
    if get(result, "complete") is False:
        found.append(f"incomplete: {get(result, 'ended', default='it ended early')}")
    if get(result, "served", "verdict") == truth.DIFFERS:
        lost = get(result, "served", "sides", "candidate", "difference")
        by = "likelihoods that are not finite" if lost is None else f"{lost:+.3f} nats a token"
        found.append(f"the engine does not compute what was scored ({by}): {get(result, 'served', 'cause')}")
    if enough := get(result, "saturated"):
        left_out = ", ".join(map(str, get(enough, "left_out", default=[]))) or "nothing"
        step = f"{get(enough, 'gained', default=0.0):+.1%} output tokens/s over the step before"
        found.append(f"saturated at concurrency {get(enough, 'concurrency')} ({step}); left out: {left_out}")
    if any(get(cell, "speed") == REQUEST for cell in result["summary"]):
        found.append(
            f"requests arrive at a rate, which sets the tokens/s; the speed-up compares the {REQUEST}, waiting included"
        )
    if get(result, "workload", "prefix_caching"):
        found.append("prefix caching was on, as the workload asks")
    bits = min(get(result, "weight_bits", default=[]) or [16])
    unproven = [cell for cell in result["summary"] if get(cell, "verdict") in ("slower", "no difference shown")]
    if unproven and bits < 8 and not get(result, "machine", "gpus"):
        found.append(
            "no speed-up: on a CPU, vLLM unpacks weights of fewer than 8 bits to 16 while it multiplies; what reading "
            "fewer bytes saves is spent on that. On this machine the scheme saves memory only"
        )
    return found


def reasons(value: Data) -> list[str]:
    """Why a result, or one of its cells, is marked as not to be trusted; empty if it is not."""
    marks = get(value, "untrustworthy", default=[])
    if isinstance(marks, bool):
        return ["marked by bench"] if marks else []
    return [marks] if isinstance(marks, str) else [str(mark) for mark in marks]


def _point(cell: Data, result: Data) -> Data:
    """One strength of load: both sides' figures, and how many times better the checkpoint is, pair by pair."""
    rounds = {side: _rounds(result, side, cell) for side in SIDES}
    ratios = {name: _ratio(rounds, *METRICS[name]) for name in METRICS}
    compared = "request_tokens_s" if get(cell, "speed") == REQUEST else "output_tokens_s"
    if given := get(cell, "ratios"):
        ratios[compared] = _spread([float(ratio) for ratio in given], get(cell, "speedup"))
        if (interval := get(cell, "interval")) and len(given) > 2:  # of two pairs it spans orders of magnitude
            ratios[compared] |= {"interval": interval}
    return {
        "concurrency": get(cell, "concurrency"),
        "request_rate": get(cell, "request_rate"),
        "failed_requests": get(cell, "failed_requests", default=0),
        "untrustworthy": reasons(cell),
        "verdict": get(cell, "verdict"),
        **{side: _figures(rounds[side], get(cell, side)) for side in SIDES},
        "ratios": ratios,
        "compared": compared,
    }


def _rounds(result: Data, side: str, level: Data) -> dict[int, Data]:
    """vLLM's figures of one side under one load, by round."""
    cells = [cell for cell in get(result, "cells", default=[]) if get(cell, "role") == side]
    same = [cell for cell in cells if all(get(cell, key) == get(level, key) for key in ("concurrency", "request_rate"))]
    return {get(cell, "round"): cell["figures"] for cell in same}


def _figures(rounds: dict[int, Data], summary: Data | None) -> Data | None:
    """Median over rounds with the least and the greatest, by our names; None where this side was not measured."""
    if not summary:
        return None
    found = {}
    for name, (key, _) in METRICS.items():
        values = [float(one[key]) for one in rounds.values() if number(one.get(key))]
        given = summary.get(key)
        value = given if number(given) else median(values) if values else None
        found[name] = {"value": value, "range": [min(values), max(values)] if values else None}
    return found


def _ratio(rounds: dict[str, dict[int, Data]], key: str, more_is_better: bool) -> Data:
    """How many times better the checkpoint is than the model: above 1 is better for latencies too."""
    base, own = (rounds[side] for side in SIDES)
    ratios = []
    for each in sorted(base.keys() & own.keys()):
        one, other = get(base[each], key), get(own[each], key)
        if one and other:
            ratios.append(other / one if more_is_better else one / other)
    return _spread(ratios)


def _spread(ratios: list[float], middle: float | None = None) -> Data:
    """The median of the pairs, and the least and the greatest of them as their interval."""
    if not ratios:
        return {"value": None, "interval": None, "pairs": 0}
    return {
        "value": median(ratios) if middle is None else middle,
        "interval": [min(ratios), max(ratios)],
        "pairs": len(ratios),
    }


def answers(result: Data) -> list[Data]:
    """Every question with both sides' answers; a side that was not asked has None."""
    sides = {side: _list(get(result, "chat", side, default=get(result, "answers", side))) for side in SIDES}
    base = {get(one, "question"): get(one, "answer") for one in sides["baseline"]}
    return [
        {"question": one["question"], "baseline": base.get(one["question"]), "candidate": get(one, "answer")}
        for one in sides["candidate"]
    ]


def _list(value: Any) -> list[Data]:
    return value if isinstance(value, list) else [value] if value else []


def _server(server: Data | None) -> Data:
    names = ("startup_s", "load_s", "kv_cache_tokens", "kv_cache_gib", "weights_gib")
    return {name: get(server, name) for name in names}


def _commands(result: Data, servers: Data) -> Data:
    """What repeats the measurement by hand: each server, and the load at each concurrency of the first round."""
    first = [cell for cell in get(result, "cells", default=[]) if get(cell, "round", default=0) == 0]
    load = [
        {"side": get(cell, "role"), "load": level(cell), "command": cell["command"]}
        for cell in first
        if get(cell, "command")
    ]
    return {"servers": {side: get(one, "command") for side, one in servers.items()}, "load": load}
