"""How many values a percentile needs."""

from __future__ import annotations


def is_carried(percentile: int, values: float) -> bool:
    """Whether so many values show a percentile (1 to 99): at least one of them is expected beyond it.

    p99 needs 100 values, p90 needs 10. Of fewer, the percentile is their maximum, or close to it: it says how many were
    taken, not what to expect.
    """
    return values * (100 - percentile) >= 100
