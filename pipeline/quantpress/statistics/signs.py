"""Whether two models differ on the same documents: tests that flip signs, and the smallest loss that could be shown."""

from __future__ import annotations

import math
from collections.abc import Sequence

from quantpress.statistics.conventions import POWER, Array

SIGNIFICANCE = 0.05
_FLIPS = 20_000  # random sets of signs: a p of 0.05 is known to 0.0015
_BATCH = 4_000_000  # drawn numbers in memory at once


def mcnemar(lost: int, gained: int) -> float:
    """Exact: under "no difference" the documents that only the candidate has right are binomial with p = 1/2 among
    those on which the two differ (Psychometrika 12, 1947). Two-sided.
    """
    from scipy.stats import binomtest

    return float(binomtest(gained, lost + gained).pvalue) if lost + gained else 1.0


def sign_flip(tasks: Sequence[Array], draws: int = _FLIPS) -> float:
    """The p-value, two-sided, of the sum of all changes: `tasks` hold what each unit adds to the suite's difference
    (weight of the task times the unit's change, over the task's documents).

    If the models do not differ, a unit's change is as likely to have the other sign, so random signs give the sum's
    distribution (Fisher 1935; Good, Permutation Tests, chapter 3). It is (1 + sets of signs that go as far) / (1 +
    sets), valid for any number of sets (Phipson and Smyth 2010). Where all changes are of one size, exact: McNemar's.
    """
    import numpy

    changes = numpy.concatenate([task[task != 0] for task in tasks])
    sizes = numpy.abs(changes)
    if not len(changes):
        return 1.0
    if sizes.max() - sizes.min() <= 1e-9 * sizes.max():
        return mcnemar(int((changes < 0).sum()), int((changes > 0).sum()))
    random, seen = numpy.random.default_rng(0), abs(float(changes.sum()))
    as_far = 0
    rows = max(1, _BATCH // len(changes))
    for start in range(0, draws, rows):
        signs = random.integers(0, 2, (min(rows, draws - start), len(changes)), dtype=numpy.int8)
        sums = 2.0 * (signs @ changes) - changes.sum()
        as_far += int((numpy.abs(sums) >= seen * (1 - 1e-9)).sum())
    return (1 + as_far) / (1 + draws)


def smallest_loss(tasks: Sequence[tuple[float, float, float]]) -> float:
    """The smallest loss of accuracy that POWER of the repetitions with as many documents would show at 5%.

    `tasks`: weight, documents, and the share of them on which the two differ. The sample size of McNemar's test
    (Connor, Biometrics 43, 1987), solved for the loss d: d = z(0.975) sqrt(s(d)) + z(0.8) sqrt(s(d) - v d^2), s(d) the
    sum of (weight / total)^2 max(share, d) / n, for who loses d differs on as many documents, v the same with 1 for the
    share. 1 where there is none.
    """
    from scipy.optimize import brentq
    from scipy.stats import norm

    total = sum(weight for weight, _, _ in tasks)
    parts = [((weight / total) ** 2 / n, share) for weight, n, share in tasks]
    v = sum(part for part, _ in parts)
    shown, missed = float(norm.ppf(1 - SIGNIFICANCE / 2)), float(norm.ppf(POWER))

    def beyond(loss: float) -> float:
        spread = sum(part * max(share, loss) for part, share in parts)
        return loss - shown * math.sqrt(spread) - missed * math.sqrt(max(spread - v * loss**2, 0.0))

    return 1.0 if beyond(1.0) <= 0 else float(brentq(beyond, 1e-9, 1.0))
