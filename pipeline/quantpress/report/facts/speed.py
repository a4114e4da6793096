"""What the report takes from throughput.json: figures over rounds, and ratios of pairs decided by today's rules."""

from __future__ import annotations

import math
from statistics import median
from typing import TypeGuard

from quantpress.artifact.served import DIFFERS
from quantpress.artifact.speed import ratio_of, summarize
from quantpress.artifact.throughput import (
    APART,
    BASELINE,
    CANDIDATE,
    REQUEST,
    Capacity,
    Cell,
    Figures,
    Said,
    ServerFacts,
    Summary,
    Throughput,
)
from quantpress.report.facts.data import (
    PAIRINGS,
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
from quantpress.statistics.ratios import START_SD

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
    """throughput.json as the report shows it: its cells, summed up by today's rules."""
    servers, rows = result.servers, summarize(result.cells)
    return Speed(
        workload=result.workload.dump(),
        weights=result.weights,
        machine=result.machine,
        foreign=[server.command for server in servers.values() if server.startup_s is None],
        vllm=result.vllm.version,
        untrustworthy=[],  # a bench marks levels of load, each for its own reasons, never the whole
        notes=notes(result, rows),
        points=[_point(row, result) for row in rows],
        answers=answers(result),
        served=result.served,
        servers=Servers(baseline=_server(servers.get(BASELINE)), candidate=_server(servers.get(CANDIDATE))),
        commands=_commands(result),
        kernels=result.kernels or [],
        pairing=result.paired,
        capacity=result.capacity,
    )


def notes(result: Throughput, rows: list[Summary]) -> list[str]:
    """What a person must know beside the figures of these levels of load."""
    found = [f"measured {PAIRINGS.get(result.paired, result.paired)} ({result.paired})"]
    found += _interruptions(result)
    found += _room(result)
    if all(cell.start == 0 for cell in result.cells):
        foreign = any(server.startup_s is None for server in result.servers.values())
        cure = (
            "servers of someone else are not started anew" if foreign else "a workload with more `starts` measures it"
        )
        found.append(
            "each server was started once: that a server's speed differs from start to start is in the intervals as "
            f"assumed (by {START_SD:.0%}), not as measured; {cure}"
        )
        if result.paired == APART:
            found.append("the sides exchange GPUs from start to start, and there was one: a faster GPU counts too")
    if result.served and result.served.verdict == DIFFERS:
        lost = result.served.sides[CANDIDATE].difference if CANDIDATE in result.served.sides else None
        by = "likelihoods that are not finite" if lost is None else f"{lost:+.3f} nats a token"
        found.append(f"the engine does not compute what was scored ({by}): {result.served.cause}")
    if others := result.other_kernels:
        found.append(f"the engine chose another kernel than planned, so this is its speed: {'; '.join(others)}")
    if enough := result.saturated:
        left_out = ", ".join(map(str, enough.left_out)) or "nothing"
        step = f"{enough.gained:+.1%} output tokens/s over the step before"
        found.append(f"saturated at concurrency {enough.concurrency} ({step}); left out: {left_out}")
    if any(row.speed == REQUEST for row in rows):
        found.append(
            f"requests arrive at a rate, which sets the tokens/s; the speed-up compares the {REQUEST}, waiting included"
        )
    if result.workload.prefix_caching:
        found.append("prefix caching was on, as the workload asks")
    bits = min(result.weight_bits or [16])
    unproven = [row for row in rows if row.verdict in ("slower", "no difference shown")]
    if unproven and bits < 8 and not result.machine.gpus:
        found.append(
            "no speed-up: on a CPU, vLLM unpacks weights of fewer than 8 bits to 16 while it multiplies; what reading "
            "fewer bytes saves is spent on that. On this machine the scheme saves memory only"
        )
    return found


def _interruptions(result: Throughput) -> list[str]:
    """That it ended early, or was stopped and gone on with."""
    found = [] if result.complete else [f"incomplete: {result.ended or 'it ended early'}"]
    if result.sittings > 1:
        found.append(f"measured in {result.sittings} sittings: stopped, and gone on with at the next start")
    return found


def _room(result: Throughput) -> list[str]:
    """What smaller weights buy, of servers that had all of the memory."""
    own, base = result.capacity.get(CANDIDATE), result.capacity.get(BASELINE)
    if own is None or base is None:
        return []
    found = []
    if own.kv_cache_tokens and base.kv_cache_tokens:
        found.append(
            f"with all of the memory: room for {own.kv_cache_tokens:,} tokens of KV cache against the model's "
            f"{base.kv_cache_tokens:,} ({own.kv_cache_tokens / base.kv_cache_tokens:.2f} times)"
            + ("" if result.machine.gpus else "; on a CPU as much as the load needs, if the memory has it")
        )
    if len({cell.concurrency for cell in result.cells}) > 1:
        sides = (_saturated(own), _saturated(base))
        found.append(f"the checkpoint's server {sides[0]}, the model's {sides[1]}")
    return found


def _saturated(one: Capacity) -> str:
    return f"saturates at concurrency {one.saturates_at}" if one.saturates_at else "is not saturated"


def _point(row: Summary, result: Throughput) -> Point:
    """One level of load: both sides' figures, and how many times better the checkpoint is, pair by pair."""
    cells = [cell for cell in result.cells if cell.load == row.load]
    ratios = {name: _ratio(cells, row.untrustworthy, *METRICS[name]) for name in METRICS}
    compared = "request_tokens_s" if row.speed == REQUEST else "output_tokens_s"
    if compared not in METRICS:
        ratios[compared] = _ratio(cells, row.untrustworthy)
    rounds = {side: [_carried(cell.figures) or {} for cell in cells if cell.role == side] for side in SIDES}
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


def _carried(figures: Figures | None) -> Figures | None:
    """Without the percentiles that too few requests carry; earlier versions kept p99 of four."""
    if not figures:
        return figures
    tails = {f"p{one}_": is_carried(one, figures.get("completed", 0)) for one in (90, 99)}
    return {key: value for key, value in figures.items() if tails.get(key[:4], True)}


def _figures(rounds: list[Figures], summary: Figures | None) -> dict[str, Spread] | None:
    """Median over rounds with the least and the greatest, by our names; None where this side was not measured."""
    if not summary:
        return None
    found = {}
    for name, (key, _) in METRICS.items():
        values = [float(value) for figures in rounds if _is_number(value := figures.get(key))]
        given = summary.get(key)
        value = given if _is_number(given) else median(values) if values else None
        found[name] = Spread(value=value, range=(min(values), max(values)) if values else None)
    return found


def _is_number(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)


def _ratio(
    cells: list[Cell], distrusted: list[str], key: str | None = None, more_is_better: bool = True
) -> Ratio | NoRatio:
    """How many times better the checkpoint is than the model: above 1 is better for latencies too."""
    found = ratio_of(cells, key, more_is_better)
    if not found.pairs:
        return NoRatio(value=None, interval=None, pairs=0)
    return Ratio.of(found, distrusted)


def answers(result: Throughput) -> list[Answer]:
    """Every question with both sides' answers; a side that was not asked has None."""
    base = {said.question: said.answer for said in _said(result, BASELINE)}
    found = [
        Answer(question=said.question, baseline=base.get(said.question), candidate=said.answer)
        for said in _said(result, CANDIDATE)
    ]
    if result.picture and result.picture.reason:
        found.append(Answer(question=f"with an image: {result.picture.reason}", baseline=None, candidate=None))
    return found


def _said(result: Throughput, side: str) -> list[Said]:
    """All answers of one side; older versions kept the first one only."""
    if result.chat and side in result.chat:
        seen = result.picture.answers if result.picture and not result.picture.reason else {}
        return [*result.chat[side], *([seen[side]] if side in seen else [])]
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
