"""What the report takes from accuracy.json."""

from __future__ import annotations

from quantpress.artifact.accuracy import Accuracy, Comparison, Figures, Overall, TaskRow
from quantpress.artifact.accuracy import Gate as Decided
from quantpress.errors import listed
from quantpress.report.facts.data import Figure, Gate, Mean, Paired, Score, Task, Together


def score_of(result: Comparison) -> Score:
    """accuracy.json, or the result of `compare`, as the report shows it."""
    overall = result.overall or Overall()
    # What `evaluate` knows and `compare` does not.
    scored = result if isinstance(result, Accuracy) else None
    settings = scored.settings if scored else None
    floor = scored.noise_floor if scored else None
    return Score(
        suite=scored.suite if scored else None,
        backend=settings.backend if settings else None,
        device=settings.device if settings else None,
        limit=_limit(scored) if scored else None,
        engine=(settings.engine if settings else None) or {},
        versions=settings.versions if settings else {},
        machine=scored.machine if scored else None,
        documents=result.documents,
        tasks=[_task(name, row) for name, row in result.tasks.items()],
        counts_no_signal=result.counts_no_signal,
        mean=Mean.model_validate(result.mean.dump()),
        overall=_paired(overall),
        together=Together(
            difference=_figure(overall, "difference"), p_value=overall.p_value, smallest_loss=overall.smallest_loss
        ),
        noise_floor=_paired(floor) if floor else None,
        backend_floor=_paired(scored.backend_floor) if scored and scored.backend_floor else None,
        gates=[_gate(gate) for gate in result.gates],
        commands={side: run.command for side, run in scored.runs.items()} if scored else {},
        differences=result.differences,
        left_out=result.left_out,
        notes=[*(_samples(scored) if scored else []), *result.notes],
        rules=result.rules,
    )


def _limit(scored: Accuracy) -> int | None:
    """The --limit that takes the same documents; None where it is the suite that chose them."""
    drawn = [task for task in scored.settings.tasks if not task.documents]
    limits = {task.limit for task in drawn if task.limit is not None}
    if len(limits) != 1:
        return scored.settings.limit
    limit = limits.pop()
    whole = [scored.tasks.get(task.task) for task in drawn if task.limit is None]
    return limit if all(row and row.documents <= limit for row in whole) else None


def _samples(scored: Accuracy) -> list[str]:
    """What was scored of the tasks of which not every document was."""
    tasks: dict[str, list[str]] = {}
    for task in scored.settings.tasks:
        if chosen := task.chosen or (scored.settings.limit and "the first documents, no sample"):
            tasks.setdefault(chosen, []).append(task.task)
    return [f"{chosen}: {listed(names, 5)}" for chosen, names in tasks.items()]


def _task(name: str, row: TaskRow) -> Task:
    paired = _paired(row)
    return Task(
        task=name,
        metric=row.metric,
        filter=row.filter,
        out_of=row.out_of,
        documents=row.documents,
        baseline=row.baseline,
        candidate=row.candidate,
        p_value=row.p_value,
        significant=row.significant,
        lost=row.lost,
        gained=row.gained,
        guessing=row.guessing,
        weight=row.weight,
        no_signal=row.no_signal,
        difference=_figure(row, "difference"),
        recovery=paired.recovery,
        flips=paired.flips,
        kl=paired.kl,
        perplexity_ratio=paired.perplexity_ratio,
        above_chance=paired.above_chance,
        counting=row.counting,
        smallest_loss=row.smallest_loss,
    )


def _paired(figures: Figures) -> Paired:
    """Recovery, that above chance, flipped answers, KL and perplexity ratio."""
    return Paired(
        recovery=_figure(figures, "recovery"),
        flips=_figure(figures, "flips"),
        kl=_figure(figures, "kl"),
        perplexity_ratio=_figure(figures, "perplexity_ratio"),
        above_chance=_figure(figures, "above_chance"),
    )


def _figure(figures: Figures, name: str) -> Figure:
    """A figure with its interval, each None where there is none."""
    return Figure(value=figures.value(name), interval=figures.interval(name))


def _gate(gate: Decided) -> Gate:
    return Gate(
        gate=gate.gate,
        value=gate.figure,
        interval=gate.interval,
        confidence=gate.confidence,
        documents=gate.documents,
        decision=gate.decision,
        reason=gate.reason,
        p_value=gate.p_value,
    )
