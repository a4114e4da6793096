"""How many documents a gate needs, and what a number of documents can show, before anything is scored.

Two models answer the same documents. Of these a share is `lost` (only the baseline is right) and a share is `gained`.
A gate passes where the whole two-sided interval lies on the right side of its limit, so a figure that is met passes
with the probability (power) that a normal estimate lies z(confidence) + z(power) standard errors away from the limit:
the sample size of a non-inferiority trial with paired answers (Liu, Hsueh, Hsieh and Chen, Statistics in Medicine 21,
2002, 231-245), with the variance that the four answers' shares give a mean over documents.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from quantpress.statistics.conventions import CONFIDENCE, POWER

# Where neither model was asked yet: a model that has 70% right, whose checkpoint answers 5% of the documents otherwise.
ACCURACY = 0.7
FLIPS = 0.05
_BEYOND = 2.0


@dataclass(frozen=True)
class Assumed:
    """What a checkpoint is taken to do: of the documents the baseline has a share `accuracy` right, and the checkpoint
    answers a share `flips` otherwise. No accuracy is lost: of the flips, half are lost and half are gained. (A flip
    from one wrong answer to another changes no accuracy; counting it as one that does errs to the safe side.)"""

    accuracy: float = ACCURACY
    flips: float = FLIPS

    def spread(self, limit: float) -> float:
        """Variance over documents of own - limit * base, whose mean is above 0 where recovery is above the limit.

        For limit 1 it is lost + gained - (gained - lost)^2, as in McNemar's test.
        """
        half = self.flips / 2
        mean = self.accuracy * (1 - limit)
        return (self.accuracy - half) * (1 - limit) ** 2 + half * limit**2 + half - mean**2


@dataclass(frozen=True)
class Need:
    """What a gate asks of the documents. `documents`: so many are needed for POWER; None where no number is enough,
    because what is assumed does not meet the gate.

    A mean over documents lies `mean` on the right side of the limit; the standard deviations are those of a document,
    if the truth were the limit and as it is assumed.
    """

    documents: int | None
    mean: float
    at_limit: float
    at_mean: float

    def power(self, documents: float) -> float:
        """The share of such checkpoints that pass on so many documents."""
        from scipy.stats import norm

        if documents <= 0 or self.mean <= 0:
            return 0.0
        away = self.mean * math.sqrt(documents) - z(CONFIDENCE) * self.at_limit
        return float(norm.cdf(away / max(self.at_mean, 1e-12)))


def of_recovery(limit: float, assumed: Assumed) -> Need:
    """A gate recovery >= limit.

    A few lost documents skew the interval that decides (a posterior over the four answers' shares, with half a document
    given to lost and gained). 2 / (1 - limit) documents more make up for it: in simulations of that interval, 74% to
    84% pass with the number that comes out, for limits of 0.9 to 0.995 and flips of 1% to 10%.
    """
    sd = math.sqrt(assumed.spread(limit))
    return _need(assumed.accuracy * (1 - limit), sd, sd, _BEYOND / (1 - limit) if limit < 1 else 0.0)


def of_flips(limit: float, assumed: Assumed) -> Need:
    """A gate flips <= limit: a share of documents, whose variance at the limit is another one than at the truth."""
    return _need(limit - assumed.flips, math.sqrt(limit * (1 - limit)), math.sqrt(assumed.flips * (1 - assumed.flips)))


def _need(mean: float, at_limit: float, at_mean: float, beyond: float = 0.0) -> Need:
    from scipy.stats import norm

    if mean <= 0:
        return Need(None, mean, at_limit, at_mean)
    apart = z(CONFIDENCE) * at_limit + float(norm.ppf(POWER)) * at_mean
    return Need(math.ceil((apart / mean) ** 2 + beyond), mean, at_limit, at_mean)


def recovery_shown(documents: float, assumed: Assumed) -> float:
    """The highest limit of a recovery gate that a lossless checkpoint passes with POWER on so many documents."""
    from scipy.optimize import brentq

    def lacking(limit: float) -> float:
        return (of_recovery(limit, assumed).documents or math.inf) - documents

    nearly_one = 1 - 1e-4
    if documents <= 0 or lacking(1e-6) > 0:
        return 0.0
    return nearly_one if lacking(nearly_one) <= 0 else float(brentq(lacking, 1e-6, nearly_one, xtol=1e-5))


def more_documents(width: float, away: float, documents: int, confidence: float = CONFIDENCE) -> int | None:
    """How many documents decide, with POWER, a figure that lies `away` from its limit on so many `documents`, where its
    interval at `confidence` is so wide: standard errors shrink with the root of the number. None where it is the limit.
    """
    from scipy.stats import norm

    if not away or not width:
        return None
    wanted = 1 + float(norm.ppf(POWER)) / z(confidence)
    return math.ceil(documents * (wanted * width / 2 / away) ** 2)


def effective(weights: Sequence[float], documents: Sequence[int]) -> float:
    """The documents of one task that tell as much as these of several, whose means are averaged by `weights`."""
    total = sum(weights)
    return 1 / sum((weight / total) ** 2 / count for weight, count in zip(weights, documents, strict=True))


def z(confidence: float) -> float:
    """How many standard errors a two-sided interval reaches to either side."""
    from scipy.stats import norm

    return float(norm.ppf((1 + confidence) / 2))
