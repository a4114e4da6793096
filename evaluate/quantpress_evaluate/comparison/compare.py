"""What the difference between two models' scores on the same documents means."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from quantpress.artifact.accuracy import CONFIDENCE, Comparison, Mean, Overall, TaskRow
from quantpress.errors import StageError
from quantpress_evaluate.comparison import metrics
from quantpress_evaluate.comparison.figures import Columns, figures
from quantpress_evaluate.comparison.samples import (
    PERPLEXITIES,
    Sample,
    Samples,
    answer,
    common_filter,
    filtered,
    guessing,
    has_choices,
    likelihoods,
    pairs,
)

SIGNIFICANCE = 0.05


@dataclass(frozen=True)
class Scored:
    """One task as both models answered it. `filter` is one of lm-eval's (None: one that both have); the metric's values
    are `out_of` 1 or 100."""

    metric: str
    baseline: Samples
    candidate: Samples
    filter: str | None = None
    weight: float = 1.0
    out_of: int = 1

    def selected(self) -> Scored:
        """With the samples of its filter alone. Raises StageError for sides that have none in common."""
        name = self.filter or common_filter(self.baseline, self.candidate)
        if name is None and self.baseline and self.candidate:
            raise StageError("baseline and candidate have no filter in common", hint="score both with one lm-eval")
        return replace(
            self, baseline=filtered(self.baseline, name), candidate=filtered(self.candidate, name), filter=name
        )


def compare_task(task: str, metric: str, baseline: Samples, candidate: Samples) -> TaskRow:
    """The comparison of one task: see `compare_suite`. Raises StageError for different documents."""
    return compare_suite({task: Scored(metric, baseline, candidate)}).tasks[task]


def compare_suite(
    tasks: Mapping[str, Scored], confidence: float = CONFIDENCE, count_no_signal: bool = False
) -> Comparison:
    """Every task's comparison, and the figures over those that carry a signal, by their weights.

    `confidence` is that of all intervals; `count_no_signal` lets the other tasks count too. No gates are decided.
    Raises StageError for different documents, and for a metric that is no number of each document.
    """
    chosen = {task: scored.selected() for task, scored in tasks.items()}
    columns = {task: columns_of(task, scored) for task, scored in chosen.items()}
    rows = {task: _row(scored, columns[task], confidence) for task, scored in chosen.items()}
    kept = [task for task, row in rows.items() if count_no_signal or not row.no_signal]
    return Comparison(
        tasks=rows,
        mean=_mean([rows[task] for task in kept], [chosen[task].weight for task in kept]),
        overall=_overall([rows[task] for task in kept], [columns[task] for task in kept], confidence),
        confidence=confidence,
        counts_no_signal=count_no_signal,
    )


def columns_of(task: str, scored: Scored) -> Columns:
    """Both models' answers, document by document. Raises StageError for different documents or what is no number."""
    import numpy

    both = list(pairs(task, scored.baseline, scored.candidate))
    metric, whole = scored.metric, scored.out_of
    for side in (scored.baseline, scored.candidate):
        if why := metrics.lacking(metric, side):
            raise StageError(f"{task} cannot be compared: {why}", hint="name another metric of the task in the suite")
    if metric in PERPLEXITIES:
        lost = [float(base[metric][0]) - float(own[metric][0]) for base, own in both]
        count = [float(base[metric][1]) for base, _ in both]
        return Columns(scored.weight, lost=numpy.array(lost), count=numpy.array(count))
    choices = all(has_choices(base) for base, _ in both)
    return Columns(
        scored.weight,
        base=numpy.array([float(base[metric]) / whole for base, _ in both]),
        own=numpy.array([float(own[metric]) / whole for _, own in both]),
        flips=numpy.array([float(answer(base, metric) != answer(own, metric)) for base, own in both]),
        kl=numpy.array([_divergence(base, own) for base, own in both]) if choices else None,
    )


def _divergence(base: Sample, own: Sample) -> float:
    """KL(baseline || candidate) of the two distributions over the choices: softmax of their log-likelihoods."""
    from scipy.special import log_softmax, softmax

    p, q = likelihoods(base), likelihoods(own)
    return float((softmax(p) * (log_softmax(p) - log_softmax(q))).sum())


def _row(scored: Scored, columns: Columns, confidence: float) -> TaskRow:
    """Both models on one task; every model has a perplexity, so there is always a signal in those, and what a guess
    would have of a fraction is not known."""
    metric = scored.metric
    sides = scored.baseline, scored.candidate
    if metric in PERPLEXITIES:
        baseline, candidate = (_perplexity(samples, metric) for samples in sides)
    else:
        baseline, candidate = float(columns.base.mean()), float(columns.own.mean())
    row = TaskRow(
        metric=metric,
        filter=None if scored.filter in (None, "none") else scored.filter,
        out_of=scored.out_of,
        documents=columns.size,
        weight=scored.weight,
        baseline=baseline,
        candidate=candidate,
        **dict(figures([columns], confidence)),
    )
    return _tested(row, columns, guessing(scored.baseline)) if columns.is_right_or_wrong else row


def _perplexity(samples: Samples, metric: str) -> float:
    """exp of the mean negative log-likelihood of a word or byte, as lm-eval has it."""
    likelihood, count = (sum(float(sample[metric][part]) for sample in samples) for part in (0, 1))
    return math.exp(-likelihood / count)


def _tested(row: TaskRow, columns: Columns, guess: float) -> TaskRow:
    """The row with McNemar's test on the documents that only one of both models has right.

    There is no signal where the baseline itself is not better than the accuracy `guess` (uniformly, or always the most
    frequent answer), one-sided exact binomial test at 5%.
    """
    from scipy.stats import binomtest

    base, own = columns.base > 0.5, columns.own > 0.5
    lost, gained = int((base & ~own).sum()), int((own & ~base).sum())
    p_value = _mcnemar(lost, gained)
    luck = float(binomtest(int(base.sum()), columns.size, min(guess, 1.0), alternative="greater").pvalue)
    return row.model_copy(
        update={
            "lost": lost,
            "gained": gained,
            "p_value": p_value,
            "significant": p_value < SIGNIFICANCE,
            "guessing": guess,
            "no_signal": luck >= SIGNIFICANCE,
        }
    )


def _overall(rows: list[TaskRow], columns: list[Columns], confidence: float) -> Overall | None:
    """The figures over tasks, and McNemar's test on the documents of all together, whatever their weights."""
    if not rows:
        return None
    found = Overall(**dict(figures(columns, confidence)))
    tested = [(row.lost, row.gained) for row in rows if row.lost is not None and row.gained is not None]
    if not tested:
        return found
    lost, gained = (sum(side) for side in zip(*tested, strict=True))
    return found.model_copy(update={"lost": lost, "gained": gained, "p_value": _mcnemar(lost, gained)})


def _mcnemar(lost: int, gained: int) -> float:
    """Exact: under "no difference" the documents that only the candidate has right are binomial with p = 1/2 among
    those on which the two differ (Psychometrika 12, 1947).
    """
    from scipy.stats import binomtest

    return float(binomtest(gained, lost + gained).pvalue) if lost + gained else 1.0


def _mean(rows: list[TaskRow], weights: list[float]) -> Mean:
    """Weighted mean metric over tasks, perplexities left out; 0 where no task is left."""
    kept = [(row, weight) for row, weight in zip(rows, weights, strict=True) if row.metric not in PERPLEXITIES]
    total = sum(weight for _, weight in kept) or 1.0
    return Mean(
        tasks=len(kept),
        baseline=sum(weight * row.baseline for row, weight in kept) / total,
        candidate=sum(weight * row.candidate for row, weight in kept) / total,
    )
