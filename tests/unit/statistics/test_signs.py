"""Tests for a difference, against cases with known answers."""

import numpy
import pytest
from scipy.stats import permutation_test

from quantpress.statistics.signs import mcnemar, sign_flip, smallest_loss


def changes(lost: int, gained: int, of_one: float) -> numpy.ndarray:
    return numpy.array([-of_one] * lost + [of_one] * gained)


def test_alike_documents_are_mcnemars() -> None:
    assert sign_flip([changes(10, 2, 0.01), numpy.zeros(50)]) == pytest.approx(158 / 4096)
    assert sign_flip([changes(10, 2, 0.01)]) == mcnemar(10, 2)
    assert sign_flip([numpy.zeros(5)]) == mcnemar(0, 0) == 1.0


def test_a_heavy_task_that_loses_is_not_hidden_by_a_light_one_that_gains() -> None:
    # Together 20 lost and 26 gained say nothing; by weight a task of 48 lost a third.
    heavy, light = changes(16, 1, 1 / 48), changes(4, 25, 0.1 / 400)
    assert mcnemar(20, 26) > 0.4
    assert sign_flip([heavy, light]) < 0.001


def test_scipy_finds_the_same() -> None:
    values = numpy.array([-0.3, -0.2, -0.25, 0.1, -0.15, -0.05, 0.02, -0.4, -0.1, 0.05])
    exact = permutation_test(
        (values,), lambda x, axis=-1: x.sum(axis), permutation_type="samples", vectorized=True, n_resamples=numpy.inf
    )
    assert sign_flip([values[:4], values[4:]]) == pytest.approx(exact.pvalue, abs=0.004)


def test_the_smallest_loss_that_would_be_shown() -> None:
    # McNemar's p is below 5% from 6 lost of 48 on; of 7.5 lost on average, 80% of the repetitions have as many.
    assert smallest_loss([(1.0, 48.0, 0.0)]) == pytest.approx(7.5 / 48, abs=0.01)
    assert smallest_loss([(1.0, 20000.0, 0.05)]) < 0.005
    random = numpy.random.default_rng(2)
    loss = smallest_loss([(1.0, 400.0, 0.1)])
    drawn = random.multinomial(400, [(0.1 + loss) / 2, (0.1 - loss) / 2, 0.9], 400)
    shown = sum(mcnemar(int(lost), int(gained)) < 0.05 for lost, gained, _ in drawn)
    assert 0.7 <= shown / 400 <= 0.88
    assert smallest_loss([(1.0, 2.0, 0.0)]) == 1.0
