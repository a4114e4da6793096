"""Figures over the documents of one task or several, each with an interval: paired bootstrap over documents."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from quantpress.artifact.accuracy import CONFIDENCE, Figures, Interval

Array = Any  # numpy's, which is imported only where it is needed
_IN_A_TAIL = 50  # resamples beyond each edge of an interval: 2000 in all at 95%
NAMES = ("difference", "recovery", "flips", "kl", "perplexity_ratio")


@dataclass(frozen=True)
class Columns:
    """What is known of each document of one task, arrays of shape (documents,); None where it does not apply.

    `base`, `own`: the metric of both models (0 to 1). `flips`: 1 where the answer is another one. `kl`: divergence of
    the two distributions over the choices, in nats. `lost`: log-likelihood that the candidate has less than the
    baseline, in nats, over `count` words or bytes.
    """

    weight: float
    base: Array = None
    own: Array = None
    flips: Array = None
    kl: Array = None
    lost: Array = None
    count: Array = None

    @property
    def size(self) -> int:
        column: Array = self.lost if self.base is None else self.base
        return len(column)

    @property
    def is_right_or_wrong(self) -> bool:
        """Whether the metric says of every document that it is right or wrong, and nothing between."""
        return self.base is not None and all(((column == 0) | (column == 1)).all() for column in (self.base, self.own))


def figures(tasks: Sequence[Columns], confidence: float = CONFIDENCE) -> Figures:
    """Each figure of NAMES over tasks that count by their weight, with its interval at `confidence`.

    Difference and recovery: of the mean metric, candidate minus and over baseline. Flips, kl: means. Perplexity ratio:
    exp of the log-likelihood lost per word or byte, geometric mean over tasks. A figure is None where no task has it
    (recovery also if the baseline has nothing right), an interval also where a task has a single document.

    The intervals are percentile bootstrap; documents are drawn within each task, each with both models' answers
    (Efron and Tibshirani 1993, chapters 8 and 13).
    """
    values: dict[str, Any] = {"kl_median": _kl_median(tasks)}
    for name in NAMES:
        values[name], values[f"{name}_interval"] = figure(name, tasks, confidence)
    return Figures(**values)


def figure(name: str, tasks: Sequence[Columns], confidence: float = CONFIDENCE) -> tuple[float | None, Interval | None]:
    """One figure of NAMES and its interval: see `figures`."""
    kept = [task for task in tasks if _applies(name, task)]
    if not kept or (name == "recovery" and not any(task.base.any() for task in kept)):
        return None, None
    statistic = _STATISTICS[name](kept)
    return float(statistic(*_indices(kept))), _interval(statistic, kept, confidence)


Statistic = Callable[..., Any]


def _applies(name: str, task: Columns) -> bool:
    needed = {"flips": task.flips, "kl": task.kl, "perplexity_ratio": task.lost}.get(name, task.base)
    return needed is not None


def _mean(tasks: Sequence[Columns], column: str) -> Statistic:
    """Weighted mean over tasks of a column's mean over the drawn documents."""
    total = sum(task.weight for task in tasks)

    def statistic(*drawn: Any, axis: int = -1) -> Any:
        means = (
            task.weight * getattr(task, column)[index].mean(axis) for task, index in zip(tasks, drawn, strict=True)
        )
        return sum(means) / total

    return statistic


def _difference(tasks: Sequence[Columns]) -> Statistic:
    own, base = _mean(tasks, "own"), _mean(tasks, "base")
    return lambda *drawn, axis=-1: own(*drawn, axis=axis) - base(*drawn, axis=axis)


def _recovery(tasks: Sequence[Columns]) -> Statistic:
    import numpy

    own, base = _mean(tasks, "own"), _mean(tasks, "base")
    return lambda *drawn, axis=-1: own(*drawn, axis=axis) / numpy.maximum(base(*drawn, axis=axis), 1e-12)


def _perplexity_ratio(tasks: Sequence[Columns]) -> Statistic:
    import numpy

    total = sum(task.weight for task in tasks)

    def statistic(*drawn: Any, axis: int = -1) -> Any:
        logs: Any = 0.0
        for task, index in zip(tasks, drawn, strict=True):
            logs = logs + task.weight * task.lost[index].sum(axis) / task.count[index].sum(axis)
        return numpy.exp(logs / total)

    return statistic


_STATISTICS: dict[str, Callable[[Sequence[Columns]], Statistic]] = {
    "difference": _difference,
    "recovery": _recovery,
    "flips": lambda tasks: _mean(tasks, "flips"),
    "kl": lambda tasks: _mean(tasks, "kl"),
    "perplexity_ratio": _perplexity_ratio,
}


def _indices(tasks: Sequence[Columns]) -> list[Array]:
    import numpy

    return [numpy.arange(task.size) for task in tasks]


def _interval(statistic: Statistic, tasks: Sequence[Columns], confidence: float) -> Interval | None:
    """What is drawn are indices of documents: that keeps a document's columns together."""
    from scipy.stats import bootstrap

    if min(task.size for task in tasks) < 2:
        return None
    drawn = bootstrap(
        tuple(_indices(tasks)),
        statistic,
        vectorized=True,
        n_resamples=math.ceil(2 * _IN_A_TAIL / (1 - confidence)),
        batch=100,
        confidence_level=confidence,
        method="percentile",
        rng=0,
    )
    low, high = drawn.confidence_interval
    return float(low), float(high)


def _kl_median(tasks: Sequence[Columns]) -> float | None:
    import numpy

    known = [task.kl for task in tasks if task.kl is not None]
    return float(numpy.median(numpy.concatenate(known))) if known else None
