"""Which documents count: those of tasks on which the baseline is better than a guess, decided on other documents.

Who keeps the tasks on which the baseline happened to do well, and then divides by these same scores, finds too little
recovered: a checkpoint that loses nothing reads 0.96 to 0.98. So each half of a task's documents counts if the baseline
is better than a guess on the other half.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from quantpress.statistics.signs import SIGNIFICANCE
from quantpress_evaluate.comparison.figures import Columns

Array = Any  # numpy's, which is imported only where it is needed


def halves(names: Sequence[str], cluster: Array) -> Array:
    """0 or 1 for each document, an array of shape (documents,): as many of both, by the digests of their names, so that
    their order decides nothing. A cluster is in one half, named by its first document."""
    import numpy

    ids = numpy.arange(len(names)) if cluster is None else numpy.unique(cluster, return_inverse=True)[1]
    first: dict[int, bytes] = {}
    for number, name in zip(ids, names, strict=True):
        first.setdefault(int(number), hashlib.sha256(name.encode()).digest())
    order = {number: rank % 2 for rank, number in enumerate(sorted(first, key=first.__getitem__))}
    return numpy.array([order[int(number)] for number in ids])


def counted(columns: Columns, half: Array) -> Columns | None:
    """The documents that count, with their share of the task's weight: both halves, one, or None.

    Only what is right or wrong can be told from a guess; everything else counts.
    """
    if not columns.is_right_or_wrong:
        return columns
    kept = [number for number in (0, 1) if _is_better_than_a_guess(columns, half != number)]
    if len(kept) == 2:
        return columns
    return columns.of(half == kept[0], columns.weight / 2) if kept and (half == kept[0]).any() else None


def _is_better_than_a_guess(columns: Columns, documents: Array) -> bool:
    """One-sided exact binomial test at 5%."""
    from scipy.stats import binomtest

    right = columns.base[documents] > 0.5
    if not len(right):
        return False
    guess = min(columns.guess, 1.0)
    return bool(binomtest(int(right.sum()), len(right), guess, alternative="greater").pvalue < SIGNIFICANCE)
