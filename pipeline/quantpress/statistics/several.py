"""What one may say of several things at once, each of which may be wrong by chance."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist

# The error of a one-sided claim whose whole 95% interval lies beyond a limit, and so that of all claims of one kind in
# a report together.
ONE_SIDED = 0.025
# The share of changes that are none, on average, among those that are called so.
FALSE_CHANGES = 0.05
_NORMAL = NormalDist()


def holm(chances: Mapping[str, float], error: float = ONE_SIDED) -> set[str]:
    """The claims that hold together: with probability 1 - `error` none of them is false (Holm 1979).

    `chances` are their p-values by name. The least is compared with error / n, the next with error / (n - 1), and so on
    to the first that is too great.
    """
    held = set()
    for place, (name, chance) in enumerate(sorted(chances.items(), key=lambda item: item[1])):
        if chance >= error / (len(chances) - place):
            break
        held.add(name)
    return held


def changed(chances: Sequence[float]) -> list[bool]:
    """Which of these p-values are changes: at most FALSE_CHANGES of those are none, on average; and where nothing has
    changed, one is called so with that probability at most (Benjamini and Hochberg 1995)."""
    if not chances:
        return []
    from scipy import stats

    return [bool(adjusted <= FALSE_CHANGES) for adjusted in stats.false_discovery_control(chances)]


def chance_beyond(value: float, interval: tuple[float, float], limit: float, confidence: float) -> float:
    """One-sided p-value that a figure is on the other side of `limit` than its estimate, from the estimate's interval
    alone: as if it were normal, with the arm towards the limit; on the logarithm where all are positive.

    An approximation for results that keep no p-value of their own.
    """
    edge = interval[0] if limit < value else interval[1]
    place = [value, edge, limit]
    if min(place) > 0:
        place = [math.log(number) for number in place]
    arm, distance = abs(place[1] - place[0]), abs(place[2] - place[0])
    if not arm:
        return 0.0 if distance else 0.5
    return _NORMAL.cdf(-distance / arm * _NORMAL.inv_cdf((1 + confidence) / 2))


def chance_of_no_difference(old: tuple[float, tuple[float, float]], new: tuple[float, tuple[float, float]]) -> float:
    """Two-sided p-value that two figures with 95% intervals are the same, as if both were normal and measured apart.

    Figures of the same documents are not measured apart, which makes this cautious.
    """
    whole = math.hypot(*((high - low) / 2 for _, (low, high) in (old, new))) / _NORMAL.inv_cdf(0.975)
    return 2 * _NORMAL.cdf(-abs(new[0] - old[0]) / whole) if whole else float(old[0] == new[0])
