"""What moved since an older report, beyond noise: `quantpress report --against OLD/report.json`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from quantpress.errors import InputError, StageError
from quantpress.report.facts.data import (
    Change,
    Figure,
    Headlines,
    Kind,
    Moved,
    Paired,
    Point,
    Recipe,
    Report,
    Score,
    Speed,
    Task,
)
from quantpress.statistics import ratios, several

RULE = (
    "Moved: a figure with another value, where chance would hardly do that. Of those called better or worse, one in "
    "twenty at most is none, on average (Benjamini and Hochberg 1995). This is cautious: a small true change can stay "
    "unseen. Sizes are exact. Speed is compared as the ratio to the unquantized model that was served beside it, so "
    "that two days of one machine can be compared. Figures of another model, suite, workload, machine or pairing (how "
    "both servers shared the machine), or by older rules, are not compared."
)
_OF_TASKS = 2  # rules from which on the figures of a task are made alike (artifact.accuracy.RULES)
_SPEEDS = {"output_tokens_s": "throughput", "tpot_ms": "TPOT", "ttft_ms": "TTFT"}


def older_report(path: Path) -> Report:
    """An older report.json. Raises InputError if it is none."""
    path = path / "report.json" if path.is_dir() else path
    try:
        return Report.load(path)
    except StageError as error:
        raise InputError(error.message, hint="name a report.json that quantpress report wrote") from error


def moved_since(old: Report, new: Report, name: str) -> Moved:
    """Every figure that both reports have, and whether it moved: better, worse, within noise, or not compared.

    `name` is how the reader named the older report.
    """
    before, now = ({recipe.name: recipe for recipe in report.recipes} for report in (old, new))
    other_model = old.model.digest != new.model.digest
    both = [] if other_model else sorted(now.keys() & before.keys())
    return Moved(
        against=name,
        rule=RULE,
        other_model=other_model,
        added=sorted(now.keys() - before.keys()),
        removed=sorted(before.keys() - now.keys()),
        headline=Headlines(old=old.decision.headline, new=new.decision.headline),
        rows=judged([row for recipe in both for row in _changes(before[recipe], now[recipe])]),
    )


@dataclass(frozen=True)
class Row:
    """A change before all are judged together: the p-value of no change (None: it is judged already), whether what is
    new is better, and why it cannot be said if it moved."""

    change: Change
    chance: float | None = None
    better: bool = False
    doubt: str | None = None

    def judged(self, moved: bool) -> Change:
        moves = self.doubt or ("better" if self.better else "worse")
        return self.change.model_copy(update={"verdict": moves if moved else "within noise"})


def judged(rows: list[Row]) -> list[Change]:
    """Which figures moved is decided over all of them: of many figures some differ much by chance."""
    moved = iter(several.changed([row.chance for row in rows if row.chance is not None]))
    return [row.change if row.chance is None else row.judged(next(moved)) for row in rows]


def _changes(old: Recipe, new: Recipe) -> list[Row]:
    """Of one recipe, in the order of the figures' names."""
    rows = [_size(old, new), _gates(old, new), *_accuracy(old, new), *_speed(old, new)]
    return sorted(rows, key=lambda row: row.change.figure)


def _size(old: Recipe, new: Recipe) -> Row:
    before, after = old.size.checkpoint_bytes, new.size.checkpoint_bytes
    verdict = "unchanged" if before == after else "smaller" if after < before else "larger"
    return Row(Change(recipe=new.name, kind="bytes", figure="size", old=before, new=after, verdict=verdict))


def _text(recipe: str, figure: str, old: str, new: str, verdict: str) -> Row:
    return Row(Change(recipe=recipe, kind="text", figure=figure, old=old, new=new, verdict=verdict))


def _gates(old: Recipe, new: Recipe) -> Row:
    before, after = (
        ", ".join(f"{gate.gate} {gate.decision}" for score in recipe.scores for gate in score.gates) or "none"
        for recipe in (old, new)
    )
    return _text(new.name, "gates", before, after, "unchanged" if before == after else "changed")


def _accuracy(old: Recipe, new: Recipe) -> Iterator[Row]:
    after = new.accuracy
    before = next((score for score in old.scores if after and score.suite == after.suite), old.accuracy)
    if before is None or after is None:
        if before or after:
            yield _text(new.name, "accuracy", _whether_there(before), _whether_there(after), "not compared")
        return
    settings = [(score.suite, score.documents, score.backend) for score in (before, after)]
    if settings[0] != settings[1]:
        was, now = (f"{suite}, {documents} documents, {backend}" for suite, documents, backend in settings)
        yield _text(new.name, "accuracy", was, now, "not compared: scored otherwise")
        return
    yield from _distances(new.name, "overall", before.overall, after.overall, before.rules == after.rules)
    alike = before.rules == after.rules or min(before.rules, after.rules) >= _OF_TASKS
    tasks = {task.task: task for task in before.tasks}
    for task in after.tasks:
        if task.task in tasks:
            yield from _distances(new.name, task.task, tasks[task.task], task, alike)


def _distances(recipe: str, label: str, old: Paired | Task, new: Paired | Task, alike: bool) -> Iterator[Row]:
    """What of the distance from the model is known on both sides; `alike` is whether the same rules made both."""
    signed: list[tuple[Kind, Figure, Figure, int]] = [
        ("recovery", old.recovery, new.recovery, 1),
        ("kl", old.kl, new.kl, -1),
        ("flips", old.flips, new.flips, -1),
        ("perplexity_ratio", old.perplexity_ratio, new.perplexity_ratio, -1),
    ]
    for kind, before, after, sign in signed:
        if before.value is not None and after.value is not None:
            figure = f"{label}: {kind.replace('_', ' ')}"
            change = Change(recipe=recipe, kind=kind, figure=figure, old=before, new=after, verdict="unchanged")
            yield _distance(change, before, after, sign, alike)


def _distance(change: Change, old: Figure, new: Figure, sign: int, alike: bool) -> Row:
    """`sign` is 1 where more is better, else -1. Of rules that are not `alike`, the figures and intervals mean another
    thing."""
    if old == new or old.value is None or new.value is None:
        return Row(change)
    if not alike:
        return Row(change.model_copy(update={"verdict": "not compared: made by older rules"}))
    if not old.interval or not new.interval:
        return Row(change.model_copy(update={"verdict": "not compared: no interval"}))
    chance = several.chance_of_no_difference((old.value, old.interval), (new.value, new.interval))
    return Row(change, chance, better=(new.value - old.value) * sign > 0)


def _whether_there(result: Score | Speed | None) -> str:
    return "measured" if result else "not measured"


def _speed(old: Recipe, new: Recipe) -> Iterator[Row]:
    after = new.throughput
    before = next((speed for speed in old.speeds if after and speed.workload == after.workload), old.throughput)
    if before is None or after is None:
        if before or after:
            yield _text(new.name, "speed", _whether_there(before), _whether_there(after), "not compared")
        return
    yield from speeds(new.name, before, after)


def speeds(recipe: str, before: Speed, after: Speed) -> Iterator[Row]:
    """What two measurements of one recipe say of its speed over the model's."""
    was, now = (
        f"{speed.workload_name} on {speed.served_on}, {speed.pairing}, vLLM {speed.vllm}" for speed in (before, after)
    )
    if before.workload != after.workload or (before.served_on, before.pairing) != (after.served_on, after.pairing):
        yield _text(recipe, "speed", was, now, "not compared: measured otherwise")
        return
    if was != now:
        yield _text(recipe, "served by", was, now, "changed")
    for point in after.points:
        earlier = None if point.concurrency is None else before.at(point.concurrency)
        if earlier:
            marked = any(part.untrustworthy for part in (earlier, before, point, after))
            yield from _ratios(recipe, earlier, point, marked)


def _ratios(recipe: str, old: Point, new: Point, marked: bool) -> Iterator[Row]:
    """The ratios under one load; what is marked as not to be trusted, or has few pairs, has not moved."""
    for metric, words in _SPEEDS.items():
        before, after = old.ratio(metric), new.ratio(metric)
        if before is None or after is None:
            continue
        figure = f"{words} at {new.concurrency}"
        change = Change(recipe=recipe, kind="times", figure=figure, old=before, new=after, verdict="unchanged")
        if before == after:
            yield Row(change)
            continue
        chance = ratios.chance_of_no_change(before.estimate, after.estimate)
        if chance is None:
            few = before.interval is None or after.interval is None
            why = "too few pairs" if few else "the older report was decided by an older rule"
            yield Row(change.model_copy(update={"verdict": f"not compared: {why}"}))
            continue
        doubt = "not compared: marked as not to be trusted" if marked else None
        yield Row(change, chance, after.value > before.value, doubt)
