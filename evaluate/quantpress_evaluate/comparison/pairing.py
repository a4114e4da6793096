"""Two sides brought together: which tasks, by which metric and filter, what was not the same, and what is left out."""

from __future__ import annotations

from dataclasses import dataclass, field

from quantpress.artifact.accuracy import Difference, TaskLeftOut
from quantpress.errors import InputError
from quantpress_evaluate.comparison import differences, metrics
from quantpress_evaluate.comparison.compare import Scored
from quantpress_evaluate.comparison.differences import Logged, first_of
from quantpress_evaluate.comparison.runs import Side
from quantpress_evaluate.comparison.samples import PERPLEXITIES, Samples, common, common_filter, filtered, filters_of


@dataclass(frozen=True)
class Wanted:
    """What was asked for: `differing` compares also what was not scored alike."""

    metric: str | None = None
    filter: str | None = None
    differing: bool = False


@dataclass
class Paired:
    """The tasks to compare, what was not the same in them, and the tasks that are left out."""

    scored: dict[str, Scored] = field(default_factory=dict)
    differences: list[Difference] = field(default_factory=list)
    left_out: list[TaskLeftOut] = field(default_factory=list)


class _LeftOutError(Exception):
    """A task cannot be compared; the message is the reason."""


def paired(baseline: Side, candidate: Side, wanted: Wanted) -> Paired:
    """Both sides' tasks.

    Raises InputError if no task can be compared, the sides have no filter in common, or they were not scored alike
    and `differing` was not asked for.
    """
    _require_filter(wanted.filter, baseline, candidate)
    result = Paired()
    for task in sorted(baseline.tasks.keys() | candidate.tasks.keys()):
        try:
            one, other = _on_both(task, baseline, candidate)
            result.scored[task], found = _task(task, one, other, wanted)
            result.differences += found
        except _LeftOutError as reason:
            result.left_out.append(TaskLeftOut(task=task, reason=str(reason)))
    if result.differences and not wanted.differing:
        lines = differences.in_words(result.differences)
        raise InputError(
            "\n       ".join(["the two were not scored alike, so they cannot be compared:", *lines]),
            hint="score both alike; or compare them with --differing, which shows the differences and passes no gate",
        )
    if not result.scored:
        lines = first_of([f"{item.task}: {item.reason}" for item in result.left_out])
        raise InputError(
            "\n       ".join(["there is no task that can be compared on both sides:", *lines]),
            hint="name two folders in which the same tasks were scored by the same metric",
        )
    return result


def _require_filter(name: str | None, *sides: Side) -> None:
    """Raises InputError for a filter that no task has."""
    known = {name for side in sides for task in side.tasks.values() for name in filters_of(task.samples)}
    if name and name not in known:
        raise InputError(
            f"--filter {name!r} is a filter of no task", hint=f"name one of {', '.join(sorted(known))}, or leave it out"
        )


def _on_both(task: str, baseline: Side, candidate: Side) -> tuple[Logged, Logged]:
    if task not in candidate.tasks:
        raise _LeftOutError("only the baseline has it")
    if task not in baseline.tasks:
        raise _LeftOutError("only the candidate has it")
    one, other = baseline.tasks[task], candidate.tasks[task]
    for name, side in (("baseline", one), ("candidate", other)):
        if not side.samples:
            raise _LeftOutError(f"the {name}'s file holds no samples")
    return one, other


def _task(task: str, baseline: Logged, candidate: Logged, wanted: Wanted) -> tuple[Scored, list[Difference]]:
    """One task of both sides. Raises _LeftOutError, or InputError for filters that do not match."""
    name = _filter(task, baseline.samples, candidate.samples, wanted)
    one = Logged(filtered(baseline.samples, name), baseline.asked)
    other = Logged(filtered(candidate.samples, name), candidate.asked)
    metric = _metric(one, other, wanted.metric)
    found = differences.between(task, one, other, metric, name)
    base, own = one.samples, other.samples
    if found:
        both = common(base, own)
        if not both and wanted.differing:
            raise _LeftOutError("the two have no document in common")
        base, own = [pair[0] for pair in both], [pair[1] for pair in both]
    if metric in PERPLEXITIES and any(a[metric][1] != b[metric][1] for a, b in zip(base, own, strict=True)):
        raise _LeftOutError(f"{metric} counts other numbers of words or bytes in the same documents")
    out_of = metrics.out_of(metric, (base, own)) if base else 1
    return Scored(metric, base, own, name, out_of=out_of), found


def _filter(task: str, baseline: Samples, candidate: Samples, wanted: Wanted) -> str:
    """The filter by which both are compared: the same one."""
    one, other = filters_of(baseline), filters_of(candidate)
    name = wanted.filter
    if name is None or one == other == ["none"]:
        name = common_filter(baseline, candidate)
    if name in one and name in other and name is not None:
        return name
    what = f"filter {name!r}" if name else "filter"
    sides = f"baseline: {', '.join(one)}; candidate: {', '.join(other)}"
    if wanted.differing and not wanted.filter:
        raise _LeftOutError(f"the two have no filter in common ({sides})")
    both = [other_name for other_name in one if other_name in other]
    hint = f"name one that both have: --filter {both[0]}" if both else "score both sides through the same filters"
    raise InputError(f"{task} has no {what} on both sides ({sides})", hint=hint)


def _metric(baseline: Logged, candidate: Logged, wanted: str | None) -> str:
    """The metric that was asked for, or the first one that can be compared on both sides.

    Raises _LeftOutError with the reason why there is none.
    """
    one, other = metrics.names(baseline.samples), metrics.names(candidate.samples)
    both = [name for name in one if name in other]
    if wanted and wanted not in both:
        raise _LeftOutError(f"it was not scored by {wanted} on both sides ({_named(one, other)})")
    if not both:
        raise _LeftOutError(f"no metric is on both sides ({_named(one, other)})")
    reasons = []
    for name in [wanted] if wanted else both:
        why = [metrics.obstacle(name, side.samples, side.asked) for side in (baseline, candidate)]
        if why == [None, None]:
            return name
        reasons.append(why[0] or why[1] or "")
    raise _LeftOutError("; ".join(reasons[:5]))


def _named(one: list[str], other: list[str]) -> str:
    return f"baseline: {', '.join(one) or 'none'}; candidate: {', '.join(other) or 'none'}"
