"""What of a checkpoint's results moved beyond noise, from one engine to another; by the rules of who made them."""

from __future__ import annotations

from collections.abc import Iterator

from quantpress.artifact.accuracy import Comparison, TaskRow
from quantpress.artifact.recertification import IN_PAIRS, ON_RECORD, Recertification, SpeedPair, Speeds
from quantpress.artifact.served import DIFFERS
from quantpress.artifact.throughput import CANDIDATE, Throughput
from quantpress.report.facts import changes
from quantpress.report.facts.data import Ratio, load_in_words
from quantpress.report.facts.speed import speed_of
from quantpress.statistics import several
from quantpress_serve.bench.other_engine import Remeasured


def tasks(comparison: Comparison | None) -> list[str]:
    """The tasks whose scores moved: of those called so, one in twenty at most is none, on average."""
    if comparison is None:
        return []
    chances = {task: _chance(row, comparison.confidence) for task, row in comparison.tasks.items()}
    known = {task: chance for task, chance in chances.items() if chance is not None}
    return [task for task, moved in zip(known, several.changed(list(known.values())), strict=True) if moved]


def _chance(row: TaskRow, confidence: float) -> float | None:
    """The p-value of no difference: the test's own, or what the interval says where there is none."""
    if row.p_value is not None:
        return row.p_value
    for value, interval, none in (
        (row.perplexity_ratio, row.perplexity_ratio_interval, 1.0),
        (row.difference, row.difference_interval, 0.0),
    ):
        if value is not None and interval is not None:
            return min(1.0, 2 * several.chance_beyond(value, interval, none, confidence))
    return None


def speeds(known: Throughput, now: Remeasured) -> Speeds:
    if now.source == IN_PAIRS:
        rows = [
            SpeedPair(
                figure=f"{row.speed}, {load_in_words(*row.load)}",
                before=(row.baseline or {}).get("output_throughput"),
                after=(row.candidate or {}).get("output_throughput"),
                ratio=row.speedup,
                interval=row.interval,
                verdict=row.verdict or "no verdict",
                moved=row.verdict in ("faster", "slower"),
            )
            for row in now.result.summary
        ]
        note = "both engines served the checkpoint, and were loaded in turns"
        return Speeds(source=IN_PAIRS, workload=known.name, note=note, rows=rows)
    note = f"not in pairs: {now.reason}; "
    if now.result.inputs.servers and now.result.inputs.servers.get(CANDIDATE):
        note += "tokens/s of another day, which say little"
        return Speeds(source=ON_RECORD, workload=known.name, note=note, rows=list(_unpaired(known, now.result)))
    note += "compared is how many times as fast as the unquantized model it was beside it, then and now"
    return Speeds(source=ON_RECORD, workload=known.name, note=note, rows=list(_ratios(known, now.result)))


def _unpaired(known: Throughput, now: Throughput) -> Iterator[SpeedPair]:
    then = {row.load: row for row in known.summary}
    for row in now.summary:
        before = then[row.load].candidate if row.load in then else None
        yield SpeedPair(
            figure=f"{row.speed}, {load_in_words(*row.load)}",
            before=(before or {}).get("output_throughput"),
            after=(row.candidate or {}).get("output_throughput"),
            verdict="not compared: measured on different days",
            moved=False,
        )


def _ratios(known: Throughput, now: Throughput) -> Iterator[SpeedPair]:
    """As `report --against` compares two benches."""
    for change in changes.judged(list(changes.speeds("", speed_of(known), speed_of(now)))):
        if change.figure == "served by":
            continue
        old, new = (side.value if isinstance(side, Ratio) else None for side in (change.old, change.new))
        yield SpeedPair(
            figure=f"{change.figure}, over the model's",
            before=old,
            after=new,
            verdict=change.verdict,
            moved=change.verdict in ("better", "worse"),
        )


def not_told(speeds: Speeds | None) -> list[str]:
    """Speeds of which nobody can say whether they moved, each with the reason."""
    undecided = ("untrustworthy", "no verdict", "not compared")
    return [
        f"{row.figure}: {row.verdict}" for row in (speeds.rows if speeds else []) if row.verdict.startswith(undecided)
    ]


def sentences(made: Recertification, known: Throughput | None) -> list[str]:
    """Everything that moved beyond noise, a sentence for each."""
    return [*_engine(made, known), *_accuracy(made), *_speed(made), *_gates(made)]


def _engine(made: Recertification, known: Throughput | None) -> Iterator[str]:
    pair = made.likelihoods
    if pair and pair.moved:
        how = "are not finite"
        if pair.difference is not None and pair.interval:
            low, high = pair.interval
            how = f"moved by {pair.difference:+.4f} nats a token ({low:+.4f} to {high:+.4f}; bound {pair.bound})"
        yield f"likelihoods of the fixed text {how}"
    now = made.served.verdict if made.served else None
    before = known.served.verdict if known and known.served else None
    if now and now != before and (before or now == DIFFERS):
        was = f", and on record it was {before}" if before else ""
        yield f"the new engine computes the checkpoint {now}{was}"


def _accuracy(made: Recertification) -> Iterator[str]:
    for suite in made.accuracy:
        rows = suite.comparison.tasks if suite.comparison else {}
        for task in suite.moved:
            row = rows[task]
            yield f"{suite.suite}, {task}: {row.metric} {row.baseline:.3f} on record, {row.candidate:.3f} now"


def _speed(made: Recertification) -> Iterator[str]:
    for row in made.speeds.rows if made.speeds else []:
        if row.moved:
            by = f" ({row.ratio:.2f} times the tokens/s)" if row.ratio else ""
            yield f"{row.figure}: {row.verdict}{by}"


def _gates(made: Recertification) -> Iterator[str]:
    for gate in made.gates:
        if gate.lost:
            yield f"gate {gate.after.gate} on {gate.suite}: passed on record, {gate.after.decision} now"
