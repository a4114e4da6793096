"""The posterior over what becomes of a document, against cases with known answers."""

import numpy
import pytest
from scipy.stats import binomtest

from quantpress.statistics import cells
from quantpress.statistics.cells import Cells


def recovery(*tasks: Cells) -> tuple[float, float]:
    found = cells.intervals(tasks, [lambda base, own: own / base], 0.95)[0]
    assert found is not None
    return found


def test_nothing_changed_is_as_uncertain_as_the_documents_are_few() -> None:
    few, many = recovery(Cells(1, 14, 0, 0, 6)), recovery(Cells(1, 1400, 0, 0, 600))
    assert few[0] < 0.85
    assert 0.997 < many[0] < 1 < many[1] < 1.003


def test_a_task_of_few_documents_and_much_weight_cannot_hide() -> None:
    few, many = Cells(1, 8, 0, 0, 4), Cells(1, 800, 0, 0, 400)
    alone, beside = recovery(few), recovery(few, many)
    assert 1 - beside[0] > 0.4 * (1 - alone[0])


def test_two_documents_fix_nothing() -> None:
    assert cells.intervals([Cells(1, 1, 1, 0, 0)], [lambda base, own: own - base], 0.95) == [None]


def test_a_ratio_without_a_denominator_has_no_interval() -> None:
    assert cells.intervals([Cells(1, 0, 0, 5, 5)], [lambda base, own: own / (base - 0.5)], 0.95)[0] is not None
    assert cells.intervals([Cells(1, 5, 0, 0, 5)], [lambda b, o: numpy.full(len(b), numpy.nan)], 0.95) == [None]


@pytest.mark.parametrize(("changed", "documents"), [(0, 40), (3, 200), (7, 7)])
def test_one_share_is_clopper_and_pearsons(changed: int, documents: int) -> None:
    exact = binomtest(changed, documents).proportion_ci(0.95, method="exact")
    found = cells.share_interval([(1.0, changed, documents)], 0.95)
    assert found == pytest.approx((exact.low, exact.high))


def test_alike_tasks_together_are_nearly_exact() -> None:
    exact = binomtest(6, 400).proportion_ci(0.95, method="exact")
    low, high = cells.share_interval([(1.0, changed, 100.0) for changed in (0, 1, 2, 3)], 0.95)
    assert low == pytest.approx(exact.low, rel=0.15)
    assert high == pytest.approx(exact.high, rel=0.05)


def test_documents_that_change_together_are_fewer() -> None:
    alone = numpy.array([-1.0] * 10 + [0.0] * 90)
    passages = numpy.arange(100) // 5

    def effective(values: numpy.ndarray, clusters: numpy.ndarray | None) -> float:
        return cells.effective_documents(values, 0.1 * 0.9, clusters, 0.95)

    assert effective(alone, None) == 100
    assert effective(alone, passages) == 20  # two passages are lost whole: no more than there are
    spread = numpy.zeros(100)
    spread[::10] = -1.0
    assert 60 < effective(spread, passages) <= 100
    assert effective(numpy.zeros(100), passages) == 20


def test_small_changes_of_many_documents_tell_more_than_right_or_wrong() -> None:
    changes = numpy.linspace(-0.1, 0.0, 100)
    cells_variance = 0.05 - 0.05**2
    assert cells.effective_documents(changes, cells_variance, None, 0.95, are_whole=False) > 1000
