"""Which documents count is decided on others."""

import numpy

from quantpress_evaluate.comparison.figures import Columns
from quantpress_evaluate.comparison.signal import counted, quarters


def columns(right: list[int], guess: float = 0.5) -> Columns:
    base = numpy.array(right, float)
    return Columns(2.0, base=base, own=base, flips=numpy.zeros(len(base)), guess=guess)


def test_quarters_are_equal_and_the_order_decides_nothing() -> None:
    names = [f"document {number}" for number in range(31)]
    quarter = quarters(names, None)
    assert sorted(numpy.bincount(quarter)) == [7, 8, 8, 8]
    assert list(quarters(names[::-1], None)) == list(quarter[::-1])


def test_a_cluster_is_in_one_quarter() -> None:
    cluster = numpy.arange(40) // 4
    quarter = quarters([str(number) for number in range(40)], cluster)
    assert all(len(set(quarter[cluster == number])) == 1 for number in range(10))


def test_each_quarter_counts_if_the_others_show_a_signal() -> None:
    quarter = numpy.arange(40) % 4
    whole, none = columns([1] * 40), columns([1, 1, 1, 1, 0, 0, 0, 0] * 5)
    assert counted(whole, quarter) is whole
    assert counted(none, quarter) is None
    some = counted(columns([1, 0, 1, 0, 1, 0, 1, 1, 1, 1] * 4), quarter)  # 70% right, and not in every quarter
    assert some is None or some.weight == 2.0 * some.size / 40
    # All that is right is in two quarters: only without one of the others is there a signal.
    part = counted(columns([1, 1, 1, 0] * 10, guess=0.7), quarter)
    assert part is not None
    assert (part.base.mean(), part.size, part.weight) == (0.0, 10, 0.5)


def test_eight_documents_all_right_count() -> None:
    assert counted(columns([1] * 8), numpy.arange(8) % 4) is not None


def test_what_is_no_right_or_wrong_counts() -> None:
    fraction = Columns(1.0, base=numpy.array([0.5, 0.2]), own=numpy.array([0.4, 0.2]))
    assert counted(fraction, numpy.array([0, 1])) is fraction
