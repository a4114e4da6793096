"""Means over units that are drawn whole (documents, or clusters of them), with intervals for few or skewed ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from quantpress.statistics.conventions import Array, Interval

_IN_A_TAIL = 50  # resamples beyond each limit: 2000 in all at 95%
_BATCH = 2_000_000  # drawn numbers in memory at once
# Fewer units than this have resamples that are all alike: Student's t instead.
FEWEST_RESAMPLED = 10


@dataclass(frozen=True)
class Units:
    """One task: the `total` and the `size` of each of its units, arrays of shape (units,). Its figure is the ratio of
    the sums: nats lost per word, divergence per document."""

    weight: float
    total: Array
    size: Array

    @property
    def ratio(self) -> float:
        return float(self.total.sum() / self.size.sum())


def in_clusters(weight: float, total: Array, size: Array, clusters: Array | None) -> Units:
    """Units of documents: those with the same number in `clusters` (None: each its own) are one."""
    import numpy

    if clusters is None:
        return Units(weight, numpy.asarray(total, float), numpy.asarray(size, float))
    ids = numpy.unique(clusters, return_inverse=True)[1]
    return Units(weight, numpy.bincount(ids, total), numpy.bincount(ids, size))


def mean(tasks: Sequence[Units]) -> float:
    """The weighted mean of the tasks' ratios."""
    return sum(task.weight * task.ratio for task in tasks) / sum(task.weight for task in tasks)


def t_interval(tasks: Sequence[Units], confidence: float) -> Interval | None:
    """Student's t for the weighted mean of ratio estimators; None where a task has a single unit.

    Of a task with ratio r the variance is sum(e_i^2 / (1 - h_i)) / (sum of sizes)^2, e_i = total_i - r size_i and
    h_i = size_i / sum of sizes (HC2, MacKinnon and White 1985): unbiased if a unit's variance grows with its size. Its
    degrees of freedom are those of Bell and McCaffrey (Survey Methodology 28, 2002), n - 1 for units of one size; over
    tasks those of Welch and Satterthwaite.
    """
    from scipy.stats import t

    if min(len(task.size) for task in tasks) < 2:
        return None
    middle, total = mean(tasks), sum(task.weight for task in tasks)
    parts = [((task.weight / total) ** 2 * variance, df) for task in tasks for variance, df in [_variance(task)]]
    variance = sum(part for part, _ in parts)
    if variance <= 0:
        return middle, middle
    df = variance**2 / sum(part**2 / df for part, df in parts)
    half = float(t.ppf((1 + confidence) / 2, df)) * math.sqrt(variance)
    return middle - half, middle + half


def _variance(task: Units) -> tuple[float, float]:
    """Of a task's ratio, with its degrees of freedom."""
    whole = float(task.size.sum())
    error = task.total - task.ratio * task.size
    by = 1 / (1 - task.size / whole)
    squares = by * task.size**2
    df = whole**2 / float((task.size**2).sum() + (squares.sum() ** 2 - (squares**2).sum()) / whole**2)
    return float((by * error**2).sum()) / whole**2, df


def bootstrap_t(tasks: Sequence[Units], confidence: float, resamples: int | None = None) -> Interval | None:
    """The studentized bootstrap of the weighted mean of ratios (Efron and Tibshirani 1993, chapter 12.5), for skewed
    values that are never below 0, such as divergences. Units are drawn within each task.

    The upper limit is that with two more units as large as the largest, for of a skewed distribution the largest values
    are mostly not seen (with one, 3.9% pass a gate at the truth: benchmarks/coverage.py). Student's t where all tasks
    together have fewer than FEWEST_RESAMPLED units; None where a task has a single one.
    """
    if min(len(task.size) for task in tasks) < 2:
        return None
    if sum(len(task.size) for task in tasks) < FEWEST_RESAMPLED:
        return t_interval(tasks, confidence)
    low, high = _studentized(tasks, confidence, resamples)
    return low, max(high, _studentized(_with_one_more(_with_one_more(tasks)), confidence, resamples)[1])


def _with_one_more(tasks: Sequence[Units]) -> list[Units]:
    """The tasks, and in the one where it weighs most a second unit like its largest."""
    import numpy

    weights = [task.weight * float(task.total.max() / task.size.sum()) for task in tasks]
    where, found = weights.index(max(weights)), list(tasks)
    task = tasks[where]
    largest = int(task.total.argmax())
    found[where] = Units(
        task.weight, numpy.append(task.total, task.total[largest]), numpy.append(task.size, task.size[largest])
    )
    return found


def _studentized(tasks: Sequence[Units], confidence: float, resamples: int | None) -> Interval:
    import numpy

    tail = (1 - confidence) / 2
    random, number = numpy.random.default_rng(0), resamples or math.ceil(_IN_A_TAIL / tail)
    total = sum(task.weight for task in tasks)
    middle, error = 0.0, 0.0
    middles, errors = numpy.zeros(number), numpy.zeros(number)
    for task in tasks:
        weight = task.weight / total
        value, variance = _ratio_of(task.total[None], task.size[None])
        middle, error = middle + weight * float(value[0]), error + weight**2 * float(variance[0])
        values, variances = _resampled(task, random, number)
        middles += weight * values
        errors += weight**2 * variances
    known = errors > 0
    if error <= 0 or not known.any():
        return middle, middle
    away = (middles[known] - middle) / numpy.sqrt(errors[known])
    low, high = numpy.quantile(away, [tail, 1 - tail])
    return middle - float(high) * math.sqrt(error), middle - float(low) * math.sqrt(error)


def _resampled(task: Units, random: Any, number: int) -> tuple[Array, Array]:
    """The ratio and its variance in each of so many resamples."""
    import numpy

    units = len(task.size)
    parts = []
    for start in range(0, number, max(1, _BATCH // units)):
        drawn = random.integers(0, units, (min(max(1, _BATCH // units), number - start), units))
        parts.append(_ratio_of(task.total[drawn], task.size[drawn]))
    values, variances = zip(*parts, strict=True)
    return numpy.concatenate(values), numpy.concatenate(variances)


def _ratio_of(total: Array, size: Array) -> tuple[Array, Array]:
    """Ratio and its variance (linearised, n - 1) of each row."""
    units = total.shape[1]
    whole = size.sum(1)
    ratio = total.sum(1) / whole
    error = total - ratio[:, None] * size
    return ratio, units / (units - 1) * (error**2).sum(1) / whole**2


def held_by_few(values: Array, share: float = 0.05) -> float | None:
    """How much of the sum of these values the largest `share` of them hold; 0 where there is none, None where that
    share is less than one."""
    import numpy

    few = int(share * len(values))
    if few < 1:
        return None
    whole = float(values.sum())
    return float(numpy.sort(values)[-few:].sum()) / whole if whole > 0 else 0.0
