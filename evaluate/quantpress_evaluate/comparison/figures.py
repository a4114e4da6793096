"""Figures over the documents of one task or several, each with an interval that holds for few documents too.

Metrics from 0 to 1 by a posterior over what becomes of a document (quantpress.statistics.cells), flips exactly,
divergences and perplexities by Student's t (quantpress.statistics.units). docs/explanation/statistics.md has the
coverages.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from quantpress.artifact.accuracy import Figures
from quantpress.statistics import cells, signs, units
from quantpress.statistics.cells import Cells
from quantpress.statistics.conventions import CONFIDENCE, Array

NAMES = ("difference", "recovery", "above_chance", "flips", "kl", "perplexity_ratio")
PER_DOCUMENT = ("base", "own", "flips", "kl", "lost", "count")  # the columns of Columns, but for `cluster`


@dataclass(frozen=True)
class Columns:
    """What is known of each document of one task, arrays of shape (documents,); None where it does not apply.

    `base`, `own`: the metric of both models (0 to 1). `flips`: 1 where the answer is another one. `kl`: divergence of
    the two distributions over the choices, in nats. `lost`: log-likelihood that the candidate has less than the
    baseline, in nats, over `count` words or bytes. `cluster`: documents with the same number are drawn together.
    `guess`: the accuracy of a guess.
    """

    weight: float
    base: Array = None
    own: Array = None
    flips: Array = None
    kl: Array = None
    lost: Array = None
    count: Array = None
    cluster: Array = None
    guess: float = 0.0

    @property
    def size(self) -> int:
        column: Array = self.lost if self.base is None else self.base
        return len(column)

    @property
    def is_right_or_wrong(self) -> bool:
        """Whether the metric says of every document that it is right or wrong, and nothing between."""
        return self.base is not None and all(((column == 0) | (column == 1)).all() for column in (self.base, self.own))

    def of(self, documents: Array, weight: float) -> Columns:
        """The columns of the documents that are true in an array of shape (documents,)."""
        names = (*PER_DOCUMENT, "cluster")
        chosen = {name: column[documents] for name in names if (column := getattr(self, name)) is not None}
        return replace(self, weight=weight, **chosen)


def figures(tasks: Sequence[Columns], confidence: float = CONFIDENCE) -> Figures:
    """Each figure of NAMES over tasks that count by their weight, with its interval at `confidence`.

    Difference and recovery: of the mean metric, candidate minus and over baseline; above chance: recovery of what both
    have beyond a guess, of tasks that are right or wrong, for what a guess has of a fraction is not known. Flips, kl:
    means. Perplexity ratio: exp of the log-likelihood lost per word or byte, geometric mean over tasks. A figure is
    None where no task has it (recovery also if the baseline has nothing right, or no more than a guess), an interval
    also where a task has too few documents.
    """
    return Figures(
        **_of_the_metric([task for task in tasks if task.base is not None], confidence),
        **_flips([task for task in tasks if task.flips is not None], confidence),
        **_kl([task for task in tasks if task.kl is not None], confidence),
        **_perplexity([task for task in tasks if task.lost is not None], confidence),
    )


Found = dict[str, Any]  # fields of Figures


# A figure as it is, and how it is made of draws of the mean metric of both models.
Wanted = dict[str, tuple[float, cells.Figure]]


def _of_the_metric(tasks: Sequence[Columns], confidence: float) -> Found:
    if not tasks:
        return {}
    base, own = _means(tasks)
    wanted: Wanted = {"difference": (own - base, lambda b, o: o - b)}
    if base > 0:
        wanted["recovery"] = (own / base, lambda b, o: o / b)
    guessed = [task for task in tasks if task.is_right_or_wrong]
    if len(guessed) == len(tasks):  # all of the same draws
        return _with_intervals(tasks, wanted | _above_chance(tasks), confidence)
    return _with_intervals(tasks, wanted, confidence) | _with_intervals(guessed, _above_chance(guessed), confidence)


def _above_chance(tasks: Sequence[Columns]) -> Wanted:
    if not tasks:
        return {}
    (base, own), guess = _means(tasks), _mean(tasks, [task.guess for task in tasks])
    if base <= guess:
        return {}
    return {"above_chance": ((own - guess) / (base - guess), lambda b, o: _above(b, o, guess))}


def _means(tasks: Sequence[Columns]) -> tuple[float, float]:
    """The mean metric of both models."""
    return _mean(tasks, [task.base.mean() for task in tasks]), _mean(tasks, [task.own.mean() for task in tasks])


def _mean(tasks: Sequence[Columns], values: Sequence[float]) -> float:
    """Of one value a task, by the tasks' weights."""
    total = sum(task.weight for task in tasks)
    return sum(task.weight * float(value) for task, value in zip(tasks, values, strict=True)) / total


def _with_intervals(tasks: Sequence[Columns], wanted: Wanted, confidence: float) -> Found:
    if not wanted:
        return {}
    made = cells.intervals(
        [_cells(task, confidence) for task in tasks], [make for _, make in wanted.values()], confidence
    )
    found: Found = {name: value for name, (value, _) in wanted.items()}
    return found | {f"{name}_interval": interval for name, interval in zip(wanted, made, strict=True)}


def _above(base: Array, own: Array, guess: float) -> Array:
    """Not a number where the baseline itself is not above a guess."""
    import numpy

    return numpy.where(base > guess, (own - guess) / (base - guess), numpy.nan)


def _cells(task: Columns, confidence: float) -> Cells:
    """A metric that is a fraction of a document has a fraction of it lost or gained. Documents that hang together or
    change by fractions count as those that fix both the difference and the recovery as well."""
    import numpy

    both = numpy.minimum(task.base, task.own)
    kept, lost, gained = (float(part.sum()) for part in (both, task.base - both, task.own - both))
    # Fractions are skewed: what was not seen is as two documents that change most (benchmarks/coverage.py).
    unseen = 1.0 if task.is_right_or_wrong else 2 * float(abs(task.own - task.base).max()) or 1.0
    found = Cells(task.weight, kept, lost, gained, task.size - kept - lost - gained, unseen)
    documents = []
    for ratio in (1.0, (kept + gained) / (kept + lost) if task.base.any() else 1.0):
        values = task.own - ratio * task.base
        squares = (1 - ratio) ** 2 * found.both + ratio**2 * found.lost + found.gained
        of_cells = squares / task.size - float(values.mean()) ** 2
        documents.append(cells.effective_documents(values, of_cells, task.cluster, confidence, task.is_right_or_wrong))
    return found.scaled(min(documents))


def _flips(tasks: Sequence[Columns], confidence: float) -> Found:
    if not tasks:
        return {}
    parts = []
    for task in tasks:
        share = float(task.flips.mean())
        documents = cells.effective_documents(task.flips, share * (1 - share), task.cluster, confidence)
        parts.append((task.weight, share * documents, documents))
    value = sum(weight * x / n for weight, x, n in parts) / sum(weight for weight, _, _ in parts)
    alone = min(task.size for task in tasks) < 2
    return {"flips": value, "flips_interval": None if alone else cells.share_interval(parts, confidence)}


def _kl(tasks: Sequence[Columns], confidence: float) -> Found:
    import numpy

    if not tasks:
        return {}
    parts = [units.in_clusters(task.weight, task.kl, numpy.ones(task.size), task.cluster) for task in tasks]
    together = numpy.concatenate([task.kl for task in tasks])
    interval = units.bootstrap_t(parts, confidence)
    return {
        "kl": units.mean(parts),
        "kl_interval": interval and (max(0.0, interval[0]), interval[1]),
        "kl_median": float(numpy.median(together)),
        "kl_held_by_few": units.held_by_few(together),
    }


def _perplexity(tasks: Sequence[Columns], confidence: float) -> Found:
    if not tasks:
        return {}
    parts = [units.in_clusters(task.weight, task.lost, task.count, task.cluster) for task in tasks]
    interval = units.t_interval(parts, confidence)
    edges = interval and (_exp(interval[0]), _exp(interval[1]))
    return {"perplexity_ratio": math.exp(units.mean(parts)), "perplexity_ratio_interval": edges}


def _exp(value: float) -> float:
    return math.exp(min(max(value, -700.0), 700.0))  # beyond, a float holds no more


def p_value(tasks: Sequence[Columns]) -> float | None:
    """Of the test for a difference over tasks, by their weights (quantpress.statistics.signs); None without a metric
    from 0 to 1."""
    kept = [task for task in tasks if task.base is not None]
    if not kept:
        return None
    changes = [
        units.in_clusters(1.0, (task.own - task.base) * task.weight / task.size, task.base, task.cluster).total
        for task in kept
    ]
    return signs.sign_flip(changes)


def smallest_loss(tasks: Sequence[Columns]) -> float | None:
    """The smallest loss of the metric that so many documents would show (quantpress.statistics.signs); those that are
    drawn together count as so many as fix the mean change as well."""
    parts = [_changes(task) for task in tasks if task.base is not None]
    return signs.smallest_loss(parts) if parts else None


def _changes(task: Columns) -> tuple[float, float, float]:
    """Weight, documents, and the share of them on which the two differ."""
    changes = task.own - task.base
    share = float((changes**2).mean())
    of_cells = share - float(changes.mean()) ** 2
    return task.weight, cells.effective_documents(changes, of_cells, task.cluster, CONFIDENCE), share
