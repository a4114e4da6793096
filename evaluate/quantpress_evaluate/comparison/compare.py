"""What the difference between two models' scores on the same documents means."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from quantpress_evaluate.comparison.figures import CONFIDENCE, Columns, figures
from quantpress_evaluate.comparison.samples import (
    PERPLEXITIES,
    Sample,
    Samples,
    answer,
    filtered,
    guessing,
    has_choices,
    likelihoods,
    pairs,
)

SIGNIFICANCE = 0.05


@dataclass(frozen=True)
class Scored:
    """One task as both models answered it. `filter` is one of lm-eval's, for tasks that log several."""

    metric: str
    baseline: Samples
    candidate: Samples
    filter: str | None = None
    weight: float = 1.0

    def selected(self) -> Scored:
        return Scored(
            self.metric,
            filtered(self.baseline, self.filter),
            filtered(self.candidate, self.filter),
            self.filter,
            self.weight,
        )


def compare_task(task: str, metric: str, baseline: Samples, candidate: Samples) -> dict[str, Any]:
    """The comparison of one task: see `compare_suite`. Raises StageError for different documents."""
    scored = Scored(metric, baseline, candidate).selected()
    return _row(scored, columns_of(task, scored))


def compare_suite(
    tasks: Mapping[str, Scored], confidence: float = CONFIDENCE, count_no_signal: bool = False
) -> dict[str, Any]:
    """Every task's comparison, and `overall`: the figures over those that carry a signal, by their weights.

    `count_no_signal` lets the others count too. `overall` is None where no task counts. `mean`: the mean metric of both
    models over the tasks that count. Raises StageError for different documents.
    """
    chosen = {task: scored.selected() for task, scored in tasks.items()}
    columns = {task: columns_of(task, scored) for task, scored in chosen.items()}
    rows = {task: _row(scored, columns[task], confidence) for task, scored in chosen.items()}
    kept = [task for task in rows if count_no_signal or not rows[task]["no_signal"]]
    return {
        "tasks": rows,
        "mean": _mean([rows[task] | {"weight": chosen[task].weight} for task in kept]),
        "overall": figures([columns[task] for task in kept], confidence) | _pooled(rows, kept) if kept else None,
        "confidence": confidence,
        "counts_no_signal": count_no_signal,
    }


def columns_of(task: str, scored: Scored) -> Columns:
    """Both models' answers, document by document. Raises StageError for different documents."""
    import numpy

    both = list(pairs(task, scored.baseline, scored.candidate))
    metric = scored.metric
    if metric in PERPLEXITIES:
        lost = [float(one[metric][0]) - float(other[metric][0]) for one, other in both]
        count = [float(one[metric][1]) for one, _ in both]
        return Columns(scored.weight, lost=numpy.array(lost), count=numpy.array(count))
    choices = all(has_choices(one) for one, _ in both)
    return Columns(
        scored.weight,
        base=numpy.array([float(one[metric]) for one, _ in both]),
        own=numpy.array([float(other[metric]) for _, other in both]),
        flips=numpy.array([float(answer(one, metric) != answer(other, metric)) for one, other in both]),
        kl=numpy.array([_divergence(one, other) for one, other in both]) if choices else None,
    )


def _divergence(one: Sample, other: Sample) -> float:
    """KL(baseline || candidate) of the two distributions over the choices: softmax of their log-likelihoods."""
    from scipy.special import log_softmax, softmax

    p, q = likelihoods(one), likelihoods(other)
    return float((softmax(p) * (log_softmax(p) - log_softmax(q))).sum())


def _row(scored: Scored, columns: Columns, confidence: float = CONFIDENCE) -> dict[str, Any]:
    row = {
        "metric": scored.metric,
        "documents": columns.size,
        "weight": scored.weight,
        **figures([columns], confidence),
    }
    return row | (_perplexities(scored) if columns.base is None else _accuracies(scored, columns))


def _perplexities(scored: Scored) -> dict[str, Any]:
    """Perplexity of both models; every model has one, so there is always a signal."""
    base, own = (_perplexity(side, scored.metric) for side in (scored.baseline, scored.candidate))
    return {"baseline": base, "candidate": own, "no_signal": False, "p_value": None, "significant": None}


def _perplexity(samples: Samples, metric: str) -> float:
    """exp of the mean negative log-likelihood of a word or byte, as lm-eval has it."""
    likelihood, count = (sum(float(sample[metric][part]) for sample in samples) for part in (0, 1))
    return math.exp(-likelihood / count)


def _accuracies(scored: Scored, columns: Columns) -> dict[str, Any]:
    """Mean metric of both, and McNemar's test on the documents where only one of them is right.

    `no_signal`: the baseline itself is not better than guessing (uniformly, or always the most frequent answer),
    one-sided exact binomial test at 5%.
    """
    from scipy.stats import binomtest

    assert columns.base is not None and columns.own is not None
    base, own = columns.base > 0.5, columns.own > 0.5
    lost, gained = int((base & ~own).sum()), int((own & ~base).sum())
    p_value = _mcnemar(lost, gained)
    guess = guessing(scored.baseline)
    luck = float(binomtest(int(base.sum()), columns.size, min(guess, 1.0), alternative="greater").pvalue)
    return {
        "baseline": float(columns.base.mean()),
        "candidate": float(columns.own.mean()),
        "lost": lost,
        "gained": gained,
        "p_value": p_value,
        "significant": p_value < SIGNIFICANCE,
        "guessing": guess,
        "no_signal": luck >= SIGNIFICANCE,
    }


def _pooled(rows: dict[str, dict[str, Any]], kept: list[str]) -> dict[str, Any]:
    """McNemar's test on the documents of all tasks that count together, whatever their weights."""
    lost, gained = (sum(rows[task].get(side, 0) for task in kept) for side in ("lost", "gained"))
    return {"lost": lost, "gained": gained, "p_value": _mcnemar(lost, gained)}


def _mcnemar(lost: int, gained: int) -> float:
    """Exact: under "no difference" the documents that only the candidate has right are binomial with p = 1/2 among
    those on which the two differ (Psychometrika 12, 1947).
    """
    from scipy.stats import binomtest

    return float(binomtest(gained, lost + gained).pvalue) if lost + gained else 1.0


def _mean(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Weighted mean metric over the tasks that count, perplexities left out, and how many these are."""
    kept = [row for row in rows if row["metric"] not in PERPLEXITIES]
    total = sum(row["weight"] for row in kept)
    sides = {side: sum(row["weight"] * row[side] for row in kept) / total if kept else 0.0 for side in _SIDES}
    return {"tasks": len(kept), **sides}


_SIDES = ("baseline", "candidate")
