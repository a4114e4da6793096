"""How many times faster one server is than another, measured in pairs: the estimate, its interval, and the verdict.

Every speed and latency is judged here, whoever asks: bench, report, comparison of two reports, suggestions.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from quantpress.statistics.conventions import CONFIDENCE, Interval

# A difference is called only if the whole interval is further from 1 than this.
INDIFFERENCE = 0.03
# Of measurements that know nothing of each other: the fewest that make an interval. Two span orders of magnitude.
LEAST = 3
# A server's speed differs from start to start of the same program (where its memory lies, how its threads were placed).
# The standard deviation of the logarithm, assumed where each side was started once: then nothing measured shows it.
START_SD = 0.03
_NORMAL = 1e6  # degrees of freedom beyond which Student's t is the normal distribution


@dataclass(frozen=True)
class Estimate:
    """A ratio: the geometric mean over `pairs`, which came from so many `starts` of both servers.

    `error` is the standard error of its logarithm, `degrees` those of freedom of Student's t by which `interval` (95%)
    was made; all three are None for fewer than LEAST pairs, or starts if there are several.
    """

    value: float
    pairs: int
    starts: int = 1
    error: float | None = None
    degrees: float | None = None

    @property
    def interval(self) -> Interval | None:
        if self.error is None or self.degrees is None:
            return None
        from scipy import special  # only when there is something to sum up: importing it takes a tenth of a second

        half = float(special.stdtrit(self.degrees, (1 + CONFIDENCE) / 2)) * self.error
        return self.value * math.exp(-half), self.value * math.exp(half)


def estimate(by_start: Sequence[Sequence[float]]) -> Estimate:
    """The ratios of pairs (all above 0), by start of the servers, as one: Student's t on logarithms.

    Several starts: t over the starts' means, because pairs of one start share its luck (Kalibera and Jones 2013,
    "Rigorous benchmarking in reasonable time", section 4). One start: t over the pairs, and to their variance the
    assumed one of two servers' starts is added (2 * START_SD^2), which has no degrees of freedom to lose (Satterthwaite
    1946). 0.0 without an interval where there is no pair.
    """
    starts = [ratios for ratios in by_start if ratios]
    pairs = sum(map(len, starts))
    if not pairs:
        return Estimate(0.0, pairs, starts=0)
    logs = [[math.log(ratio) for ratio in ratios] for ratios in starts]
    units = [statistics.fmean(own) for own in logs] if len(starts) > 1 else logs[0]
    value = math.exp(statistics.fmean(units))
    if len(units) < LEAST:
        return Estimate(value, pairs, len(starts))
    measured = statistics.variance(units) / len(units)
    if len(starts) > 1:
        return Estimate(value, pairs, len(starts), math.sqrt(measured), len(units) - 1.0)
    whole = measured + 2 * START_SD**2
    degrees = min(_NORMAL, (len(units) - 1) * (whole / measured) ** 2) if measured else _NORMAL
    return Estimate(value, pairs, 1, math.sqrt(whole), degrees)


def verdict(found: Estimate, distrusted: Sequence[str] = ()) -> str:
    """`faster` or `slower` only if enough measurements, undisturbed, leave no other reading; else why not."""
    if distrusted:
        return f"untrustworthy: {'; '.join(distrusted)}"
    interval = found.interval
    if interval is None:
        several = found.starts > 1
        number, unit = (found.starts, "start") if several else (found.pairs, "pair")
        return f"no verdict: {number} {unit}{'s' * (number != 1)}, {LEAST} needed"
    if interval[0] > 1 + INDIFFERENCE:
        return "faster"
    if interval[1] < 1 - INDIFFERENCE:
        return "slower"
    return "no difference shown"


def chance_of_no_gain(value: float, error: float, degrees: float) -> float:
    """The p-value of `faster`: one-sided, that the ratio is not above 1 + INDIFFERENCE. Below 2.5% where the whole 95%
    interval is above."""
    from scipy import special

    if not error:
        return float(value <= 1 + INDIFFERENCE)
    return float(special.stdtr(degrees, -math.log(value / (1 + INDIFFERENCE)) / error))


def chance_of_no_change(old: Estimate, new: Estimate) -> float | None:
    """Two-sided p-value that two ratios are the same: Welch's test on their logarithms (Welch 1947).

    None if one of them has no interval.
    """
    if None in (old.error, old.degrees, new.error, new.degrees):
        return None
    from scipy import special

    variances = [(one.error or 0.0) ** 2 for one in (old, new)]
    whole = sum(variances)
    if not whole:
        return float(old.value == new.value)
    lost = sum(own**2 / (one.degrees or _NORMAL) for own, one in zip(variances, (old, new), strict=True))
    distance = abs(math.log(new.value / old.value)) / math.sqrt(whole)
    return float(2 * special.stdtr(whole**2 / lost, -distance))
