"""What benchmarks/peers/divergence.py found, as figures: means over the positions of sequences drawn whole."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import starmap

import numpy

from quantpress.report.facts.data import Figure
from quantpress.runtime.records import Record
from quantpress.statistics import units


class Divergence(Record):
    """By sequence and position: the KL divergence of the next token's distribution from the model's in nats, and
    whether another token is the likeliest."""

    kl: list[list[float]]
    flips: list[list[bool]]


def mean(values: Sequence[Sequence[float]]) -> Figure:
    """Over all positions, with the 95% interval (Student's t over sequences)."""
    totals, sizes = ([count(sequence) for sequence in values] for count in (sum, len))
    parts = [units.in_clusters(1.0, numpy.array(totals), numpy.array(sizes), None)]
    return Figure(value=units.mean(parts), interval=units.t_interval(parts, 0.95))


def mean_difference(ones: Sequence[Sequence[float]], others: Sequence[Sequence[float]]) -> Figure:
    """Of one minus the other, position by position."""

    def minus(one: Sequence[float], other: Sequence[float]) -> list[float]:
        return [mine - theirs for mine, theirs in zip(one, other, strict=True)]

    return mean(list(starmap(minus, zip(ones, others, strict=True))))
