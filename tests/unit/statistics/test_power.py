"""The number of documents that a gate is said to need, against simulations with known truth."""

from __future__ import annotations

import pytest

from quantpress.statistics import percentiles, power
from quantpress.statistics.power import Assumed

REPETITIONS, DRAWS = 400, 1000


def passed(limit: float, documents: int, truth: Assumed) -> float:
    """The share of lossless checkpoints that pass on so many documents drawn at random, decided as a gate is: by the
    posterior of recovery under Dirichlet draws on counts * (n - 2) / n, with half a document for lost and gained."""
    import numpy

    chance = numpy.random.default_rng(0)
    half = truth.flips / 2
    shares = [truth.accuracy - half, half, half, 1 - truth.accuracy - half]  # both right, lost, gained, both wrong
    counts = chance.multinomial(documents, shares, size=(REPETITIONS, 1)) * (documents - 2) / documents
    prior = numpy.array([1e-9, 0.25, 0.25, 1e-9])
    right, lost, gained, _ = chance.gamma(counts + prior, size=(REPETITIONS, DRAWS, 4)).T
    return float((numpy.quantile((right + gained) / (right + lost), 0.025, axis=0) >= limit).mean())


@pytest.mark.parametrize(
    ("limit", "truth"),
    [
        (0.99, Assumed()),
        (0.98, Assumed(flips=0.01)),
        (0.95, Assumed(accuracy=0.5, flips=0.1)),
        (0.98, Assumed(accuracy=0.9, flips=0.02)),
        (0.97, Assumed(accuracy=0.3, flips=0.12)),
    ],
    ids=str,
)
def test_at_the_number_of_documents_80_of_100_pass(limit: float, truth: Assumed) -> None:
    needed = power.of_recovery(limit, truth)
    assert needed.documents
    assert passed(limit, needed.documents, truth) == pytest.approx(0.8, abs=0.07)  # 0.06 is three standard errors
    half = needed.documents // 2
    assert passed(limit, half, truth) == pytest.approx(needed.power(half), abs=0.1)


def test_a_70_percent_model_needs_8000_documents_for_a_hundredth() -> None:
    needed = power.of_recovery(0.99, Assumed())
    assert needed.documents == pytest.approx(8000, rel=0.03)
    assert needed.power(192) == pytest.approx(0.06, abs=0.01)


def test_the_flips_of_a_gate_are_counted_as_the_binomial_does() -> None:
    from scipy.stats import beta, binom

    needed = power.of_flips(0.08, Assumed(flips=0.05))
    assert needed.documents
    numbers = range(needed.documents + 1)
    upper = beta.ppf(0.975, [number + 1 for number in numbers], [needed.documents - number for number in numbers])
    most = max(number for number in numbers if number == 0 or upper[number] <= 0.08)  # Clopper and Pearson's interval
    assert float(binom.cdf(most, needed.documents, 0.05)) == pytest.approx(0.8, abs=0.06)
    assert power.of_flips(0.05, Assumed(flips=0.05)).documents is None
    assert power.of_flips(0.05, Assumed(flips=0.05)).power(10**6) == 0


def test_what_documents_can_show_is_the_gate_that_needs_them() -> None:
    for documents in (192, 1000, 18_698):
        shown = power.recovery_shown(documents, Assumed())
        assert power.of_recovery(shown, Assumed()).documents == pytest.approx(documents, rel=0.01)
    assert power.recovery_shown(0, Assumed()) == 0


def test_tasks_that_weigh_more_than_their_documents_tell_less() -> None:
    assert power.effective([1, 1], [100, 100]) == pytest.approx(200)
    assert power.effective([1, 1], [10, 1000]) == pytest.approx(4 / (1 / 10 + 1 / 1000))


def test_an_undecided_figure_needs_more_documents_the_closer_it_is() -> None:
    """192 documents, an interval of 0.10 around a figure that lies 0.05 from the limit: it is on its edge."""
    on_the_edge = power.more_documents(0.10, 0.05, 192)
    assert on_the_edge == pytest.approx(192 * ((1.96 + 0.84) / 1.96) ** 2, rel=0.01)
    assert power.more_documents(0.10, 0.01, 192) == pytest.approx(25 * (on_the_edge or 0), rel=0.01)
    assert power.more_documents(0.10, 0.0, 192) is None


def test_p99_needs_a_hundred_values() -> None:
    carried = {number: [q for q in (50, 90, 99) if percentiles.is_carried(q, number)] for number in (1, 4, 10, 99, 100)}
    assert carried == {1: [], 4: [50], 10: [50, 90], 99: [50, 90], 100: [50, 90, 99]}
