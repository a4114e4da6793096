"""What the report takes from throughput.json: figures over rounds, and ratios pair by pair."""

from __future__ import annotations

import math
from statistics import median
from typing import TypeGuard

from quantpress.artifact.served import DIFFERS
from quantpress.artifact.throughput import (
    BASELINE,
    CANDIDATE,
    REQUEST,
    Figures,
    Said,
    ServerFacts,
    Summary,
    Throughput,
)
from quantpress.report.facts.data import (
    Answer,
    LoadCommand,
    NoRatio,
    Point,
    Ratio,
    Server,
    Servers,
    Speed,
    SpeedCommands,
    Spread,
    load_in_words,
)
from quantpress.statistics.percentiles import is_carried

# What vLLM's load generator measures, by our names: its key, and whether more is better.
METRICS = {
    "output_tokens_s": ("output_throughput", True),
    "ttft_ms": ("median_ttft_ms", False),
    "tpot_ms": ("median_tpot_ms", False),
    "e2el_ms": ("median_e2el_ms", False),
    "ttft_p99_ms": ("p99_ttft_ms", False),
    "tpot_p99_ms": ("p99_tpot_ms", False),
}
SIDES = (BASELINE, CANDIDATE)


def speed_of(result: Throughput) -> Speed:
    """throughput.json as the report shows it."""
    servers = result.servers
    return Speed(
        workload=result.workload.dump(),
        weights=result.weights,
        machine=result.machine,
        foreign=[server.command for server in servers.values() if server.startup_s is None],
        vllm=result.vllm.version,
        untrustworthy=[],  # a bench marks levels of load, each for its own reasons, never the whole
        notes=notes(result),
        points=[_point(row, result) for row in result.summary],
        answers=answers(result),
        served=result.served,
        servers=Servers(baseline=_server(servers.get(BASELINE)), candidate=_server(servers.get(CANDIDATE))),
        commands=_commands(result),
    )


def notes(result: Throughput) -> list[str]:
    """What a person must know beside the figures."""
    found = []
    if not result.complete:
        found.append(f"incomplete: {result.ended or 'it ended early'}")
    if result.served and result.served.verdict == DIFFERS:
        lost = result.served.sides[CANDIDATE].difference if CANDIDATE in result.served.sides else None
        by = "likelihoods that are not finite" if lost is None else f"{lost:+.3f} nats a token"
        found.append(f"the engine does not compute what was scored ({by}): {result.served.cause}")
    if enough := result.saturated:
        left_out = ", ".join(map(str, enough.left_out)) or "nothing"
        step = f"{enough.gained:+.1%} output tokens/s over the step before"
        found.append(f"saturated at concurrency {enough.concurrency} ({step}); left out: {left_out}")
    if any(row.speed == REQUEST for row in result.summary):
        found.append(
            f"requests arrive at a rate, which sets the tokens/s; the speed-up compares the {REQUEST}, waiting included"
        )
    if result.workload.prefix_caching:
        found.append("prefix caching was on, as the workload asks")
    bits = min(result.weight_bits or [16])
    unproven = [row for row in result.summary if row.verdict in ("slower", "no difference shown")]
    if unproven and bits < 8 and not result.machine.gpus:
        found.append(
            "no speed-up: on a CPU, vLLM unpacks weights of fewer than 8 bits to 16 while it multiplies; what reading "
            "fewer bytes saves is spent on that. On this machine the scheme saves memory only"
        )
    return found


def _point(row: Summary, result: Throughput) -> Point:
    """One level of load: both sides' figures, and how many times better the checkpoint is, pair by pair."""
    rounds = {side: _rounds(result, side, row) for side in SIDES}
    ratios = {name: _ratio(rounds, *METRICS[name]) for name in METRICS}
    compared = "request_tokens_s" if row.speed == REQUEST else "output_tokens_s"
    if row.ratios:
        # The interval of two pairs spans orders of magnitude; there the range of the pairs says more.
        edges = row.interval if row.interval and len(row.ratios) > 2 else (min(row.ratios), max(row.ratios))
        middle = median(row.ratios) if row.speedup is None else row.speedup
        ratios[compared] = Ratio(value=middle, interval=edges, pairs=len(row.ratios))
    return Point(
        concurrency=row.concurrency,
        request_rate=row.request_rate,
        failed_requests=row.failed_requests,
        untrustworthy=list(row.untrustworthy),
        verdict=row.verdict,
        baseline=_figures(rounds[BASELINE], _carried(row.side(BASELINE))),
        candidate=_figures(rounds[CANDIDATE], _carried(row.side(CANDIDATE))),
        ratios=ratios,
        compared=compared,
    )


def _rounds(result: Throughput, side: str, row: Summary) -> dict[int, Figures]:
    """vLLM's figures of one side under one load, by round."""
    cells = [cell for cell in result.cells if cell.role == side and cell.load == row.load]
    return {cell.round: _carried(cell.figures) or {} for cell in cells}


def _carried(figures: Figures | None) -> Figures | None:
    """Without the percentiles that too few requests carry; earlier versions kept p99 of four."""
    if not figures:
        return figures
    tails = {f"p{one}_": is_carried(one, figures.get("completed", 0)) for one in (90, 99)}
    return {key: value for key, value in figures.items() if tails.get(key[:4], True)}


def _figures(rounds: dict[int, Figures], summary: Figures | None) -> dict[str, Spread] | None:
    """Median over rounds with the least and the greatest, by our names; None where this side was not measured."""
    if not summary:
        return None
    found = {}
    for name, (key, _) in METRICS.items():
        values = [float(value) for figures in rounds.values() if _is_number(value := figures.get(key))]
        given = summary.get(key)
        value = given if _is_number(given) else median(values) if values else None
        found[name] = Spread(value=value, range=(min(values), max(values)) if values else None)
    return found


def _is_number(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)


def _ratio(rounds: dict[str, dict[int, Figures]], key: str, more_is_better: bool) -> Ratio | NoRatio:
    """How many times better the checkpoint is than the model: above 1 is better for latencies too.

    The median of the pairs, and the least and the greatest of them as their interval.
    """
    base, own = (rounds[side] for side in SIDES)
    ratios = []
    for each in sorted(base.keys() & own.keys()):
        one, other = base[each].get(key), own[each].get(key)
        if one and other:
            ratios.append(other / one if more_is_better else one / other)
    if not ratios:
        return NoRatio(value=None, interval=None, pairs=0)
    return Ratio(value=median(ratios), interval=(min(ratios), max(ratios)), pairs=len(ratios))


def answers(result: Throughput) -> list[Answer]:
    """Every question with both sides' answers; a side that was not asked has None."""
    base = {said.question: said.answer for said in _said(result, BASELINE)}
    return [
        Answer(question=said.question, baseline=base.get(said.question), candidate=said.answer)
        for said in _said(result, CANDIDATE)
    ]


def _said(result: Throughput, side: str) -> list[Said]:
    """All answers of one side; older versions kept the first one only."""
    if result.chat and side in result.chat:
        return list(result.chat[side])
    return [result.answers[side]] if side in result.answers else []


def _server(server: ServerFacts | None) -> Server:
    return Server(
        startup_s=server.startup_s if server else None,
        load_s=server.load_s if server else None,
        kv_cache_tokens=server.kv_cache_tokens if server else None,
        kv_cache_gib=server.kv_cache_gib if server else None,
        weights_gib=server.weights_gib if server else None,
    )


def _commands(result: Throughput) -> SpeedCommands:
    """What repeats the measurement by hand: each server, and the load at each concurrency of the first round."""
    load = [
        LoadCommand(side=cell.role, load=load_in_words(*cell.load), command=cell.command)
        for cell in result.cells
        if cell.round == 0 and cell.command
    ]
    return SpeedCommands(servers={side: server.command for side, server in result.servers.items()}, load=load)
