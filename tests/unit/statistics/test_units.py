"""Means of few and of skewed values, against cases with known answers."""

import numpy
import pytest
from scipy.stats import t, ttest_1samp

from quantpress.statistics.units import Units, bootstrap_t, held_by_few, in_clusters, mean, t_interval


def test_of_one_task_of_equal_sizes_it_is_students() -> None:
    values = numpy.array([0.1, 0.4, 0.2, 0.7])
    expected = ttest_1samp(values, 0).confidence_interval(0.95)
    found = t_interval([Units(1.0, values, numpy.ones(4))], 0.95)
    assert found == pytest.approx((expected.low, expected.high))


def test_of_two_units_one_degree_of_freedom_is_left() -> None:
    low, high = t_interval([Units(1.0, numpy.array([10.0, 14.0]), numpy.array([100.0, 100.0]))], 0.95)
    assert (low + high) / 2 == pytest.approx(0.12)
    assert (high - low) / 2 == pytest.approx(float(t.ppf(0.975, 1)) * 0.02)


def test_a_single_unit_has_no_interval() -> None:
    alone = [Units(1.0, numpy.array([1.0]), numpy.array([2.0]))]
    assert (mean(alone), t_interval(alone, 0.95), bootstrap_t(alone, 0.95)) == (0.5, None, None)


def test_documents_of_a_cluster_are_drawn_together() -> None:
    values = numpy.array([0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0])
    alone = t_interval([in_clusters(1.0, values, numpy.ones(8), None)], 0.95)
    together = t_interval([in_clusters(1.0, values, numpy.ones(8), numpy.arange(8) // 2)], 0.95)
    assert together[1] - together[0] > 1.5 * (alone[1] - alone[0])


def test_a_skewed_mean_may_be_far_above_what_was_seen() -> None:
    values = numpy.random.default_rng(1).lognormal(0, 1, 48)
    low, high = bootstrap_t([Units(1.0, values, numpy.ones(48))], 0.95)
    middle = values.mean()
    assert high - middle > 1.3 * (middle - low) > 0


def test_a_few_documents_hold_the_divergence() -> None:
    assert held_by_few(numpy.array([1.0] * 95 + [100.0] * 5)) == pytest.approx(500 / 595)
    assert held_by_few(numpy.ones(100)) == pytest.approx(0.05)
    assert held_by_few(numpy.zeros(40)) == 0.0
    assert held_by_few(numpy.ones(8)) is None
