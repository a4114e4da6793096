"""Which documents count: those of tasks on which the baseline is better than a guess, decided on other documents.

Who keeps the tasks on which the baseline happened to do well, and then divides by these same scores, finds too little
recovered: a checkpoint that loses nothing reads 0.96 to 0.98. So each quarter of a task's documents counts if the
baseline is better than a guess on the other three (cross-fitting: Chernozhukov and others, Econometrics Journal 21,
2018).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from quantpress.statistics.conventions import Array
from quantpress.statistics.signs import SIGNIFICANCE
from quantpress_evaluate.comparison.figures import Columns

QUARTERS = 4


def quarters(names: Sequence[str], cluster: Array) -> Array:
    """0 to 3 for each document, an array of shape (documents,): as many of each, by the digests of their names, so that
    their order decides nothing. A cluster is in one quarter, named by its first document."""
    import numpy

    ids = numpy.arange(len(names)) if cluster is None else numpy.unique(cluster, return_inverse=True)[1]
    first: dict[int, bytes] = {}
    for number, name in zip(ids, names, strict=True):
        first.setdefault(int(number), hashlib.sha256(name.encode()).digest())
    order = {number: rank % QUARTERS for rank, number in enumerate(sorted(first, key=first.__getitem__))}
    return numpy.array([order[int(number)] for number in ids])


def counted(columns: Columns, quarter: Array) -> Columns | None:
    """The documents that count, with their share of the task's weight; None where none do.

    Only what is right or wrong can be told from a guess; everything else counts.
    """
    import numpy

    if not columns.is_right_or_wrong:
        return columns
    kept = [number for number in range(QUARTERS) if _is_better_than_a_guess(columns, quarter != number)]
    documents = numpy.isin(quarter, kept)
    if documents.all():
        return columns
    return columns.of(documents, columns.weight * float(documents.mean())) if documents.any() else None


def _is_better_than_a_guess(columns: Columns, documents: Array) -> bool:
    """One-sided exact binomial test at 5%."""
    from scipy.stats import binomtest

    right = columns.base[documents] > 0.5
    if not len(right):
        return False
    guess = min(columns.guess, 1.0)
    return bool(binomtest(int(right.sum()), len(right), guess, alternative="greater").pvalue < SIGNIFICANCE)
