"""Which documents count is decided on others."""

import numpy

from quantpress_evaluate.comparison.figures import Columns
from quantpress_evaluate.comparison.signal import counted, halves


def columns(right: list[int], guess: float = 0.5) -> Columns:
    base = numpy.array(right, float)
    return Columns(2.0, base=base, own=base, flips=numpy.zeros(len(base)), guess=guess)


def test_halves_are_equal_and_the_order_decides_nothing() -> None:
    names = [f"document {number}" for number in range(31)]
    half = halves(names, None)
    assert sorted([int(half.sum()), 31 - int(half.sum())]) == [15, 16]
    assert list(halves(names[::-1], None)) == list(half[::-1])


def test_a_cluster_is_in_one_half() -> None:
    cluster = numpy.arange(40) // 4
    half = halves([str(number) for number in range(40)], cluster)
    assert all(len(set(half[cluster == number])) == 1 for number in range(10))
    assert half.sum() == 20


def test_each_half_counts_if_the_other_shows_a_signal() -> None:
    half = numpy.arange(40) % 2
    whole, none = columns([1] * 40), columns([1, 1, 0, 0] * 10)
    assert counted(whole, half) is whole
    assert counted(none, half) is None
    one = counted(columns([1, 0] * 20), half)  # only the half 0 is right, so only the half 1 counts
    assert one is not None
    assert (one.base.mean(), one.size, one.weight) == (0.0, 20, 1.0)


def test_what_is_no_right_or_wrong_counts() -> None:
    fraction = Columns(1.0, base=numpy.array([0.5, 0.2]), own=numpy.array([0.4, 0.2]))
    assert counted(fraction, numpy.array([0, 1])) is fraction
