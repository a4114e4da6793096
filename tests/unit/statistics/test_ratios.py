"""One interval and one verdict for every ratio of two servers, against cases by hand and simulations of known truth."""

from __future__ import annotations

import math
import random

import pytest
from scipy import stats

from quantpress.statistics import ratios
from quantpress.statistics.ratios import Estimate, chance_of_no_change, chance_of_no_gain, estimate, verdict

START, WITHIN, FIRST = 0.03, 0.02, 0.04  # standard deviations of a side's log speed, and what going first is worth


def bench(chance: random.Random, starts: int, rounds: int, truth: float = 1.0, first: float = 0.0) -> list[list[float]]:
    """Ratios by start as a bench measures them, the side that goes first alternating."""
    by_start = []
    for start in range(starts):
        offset = chance.gauss(0, START) - chance.gauss(0, START)
        noise = [chance.gauss(0, WITHIN) - chance.gauss(0, WITHIN) for _ in range(rounds)]
        ahead = [first * (1 if (start * rounds + number) % 2 == 0 else -1) for number in range(rounds)]
        by_start.append([truth * math.exp(offset + a + b) for a, b in zip(noise, ahead, strict=True)])
    return by_start


def test_several_starts_are_students_t_over_their_means() -> None:
    found = estimate([[1.2, 1.2], [1.5, 1.5], [1.3, 1.3]])
    assert (found.pairs, found.starts, found.degrees) == (6, 3, 2)
    assert found.value == pytest.approx((1.2 * 1.5 * 1.3) ** (1 / 3))
    # By hand: logs 0.18232, 0.40547, 0.26236; mean 0.28338, standard error 0.06527; t(0.975, 2) = 4.30265.
    assert found.interval == pytest.approx((math.exp(0.28338 - 0.28083), math.exp(0.28338 + 0.28083)), rel=1e-3)


def test_one_start_takes_the_assumed_difference_between_starts() -> None:
    logs = [0.18232, 0.40547, 0.26236]
    found = estimate([[math.exp(log) for log in logs]])
    measured = stats.sem(logs) ** 2
    whole = measured + 2 * ratios.START_SD**2
    assert found.error == pytest.approx(math.sqrt(whole))
    assert found.degrees == pytest.approx(2 * (whole / measured) ** 2)
    same = estimate([[1.2, 1.2, 1.2]])
    half = 1.959964 * math.sqrt(2) * ratios.START_SD
    assert same.interval == pytest.approx((1.2 * math.exp(-half), 1.2 * math.exp(half)))


def test_too_few_measurements_have_no_interval_and_no_verdict() -> None:
    for by_start, why in (
        ([], "0 pairs"),
        ([[1.2]], "1 pair"),
        ([[1.5, 1.6]], "2 pairs"),
        ([[1.5, 1.6], [1.5, 1.6]], "2 starts"),
    ):
        found = estimate(by_start)
        assert found.interval is None
        assert verdict(found) == f"no verdict: {why}, 3 needed"


def test_three_pairs_that_are_all_ahead_show_nothing() -> None:
    """Their least and greatest, 1.044 to 1.148, would be a gain; they are no interval."""
    found = estimate([[1.044, 1.148, 1.051]])
    assert verdict(found) == "no difference shown"
    assert found.error
    assert found.degrees
    assert chance_of_no_gain(found.value, found.error, found.degrees) > 0.025


@pytest.mark.parametrize("middle", [0.8, 0.97, 1.0, 1.02, 1.1, 1.14, 1.3])
def test_the_p_value_is_that_of_the_verdict(middle: float) -> None:
    found = estimate([[middle * 0.99], [middle], [middle * 1.02], [middle]])
    assert found.error
    assert found.degrees
    chance = chance_of_no_gain(found.value, found.error, found.degrees)
    assert (chance < 0.025) == (verdict(found) == "faster")


def test_reasons_to_doubt_come_before_every_verdict() -> None:
    assert verdict(estimate([[2.0] * 4]), ["it rained", "it snowed"]) == "untrustworthy: it rained; it snowed"


@pytest.mark.parametrize(("starts", "rounds"), [(4, 1), (1, 4), (1, 16)])
def test_equal_servers_that_differ_from_start_to_start_are_seldom_called_different(starts: int, rounds: int) -> None:
    """At most 2.5% either way, of which 600 runs see 27 with a chance of one in a thousand."""
    chance = random.Random(starts * 100 + rounds)
    found = [estimate(bench(chance, starts, rounds, first=FIRST)) for _ in range(600)]
    said = [verdict(one) for one in found]
    assert said.count("faster") <= 27
    assert said.count("slower") <= 27
    covered = sum(one.interval[0] <= 1 <= one.interval[1] for one in found if one.interval)
    assert covered / 600 > 0.92


def test_going_first_leaves_nothing_over_an_even_number_of_rounds() -> None:
    ahead = [math.exp(FIRST), math.exp(-FIRST)]
    assert estimate([ahead * 2]).value == pytest.approx(1)
    assert estimate([[ahead[number % 2]] for number in range(4)]).value == pytest.approx(1)
    assert estimate([[*ahead, ahead[0]]]).value == pytest.approx(math.exp(FIRST / 3))  # a third of it, with three


def test_unchanged_ratios_seldom_move() -> None:
    chance = random.Random(3)
    for starts, rounds in ((4, 1), (1, 4)):
        pairs = [[estimate(bench(chance, starts, rounds, 1.2)) for _ in range(2)] for _ in range(500)]
        moved = sum((chance_of_no_change(old, new) or 0.0) < 0.05 for old, new in pairs)
        assert moved <= 41  # of 500 at 5% the upper 0.1%


def test_welchs_test_is_that_of_scipy() -> None:
    old, new = [1.1, 1.3, 1.2, 1.25], [1.5, 1.9, 1.3, 1.4]
    logs = [[math.log(value) for value in side] for side in (old, new)]
    expected = stats.ttest_ind(*logs, equal_var=False).pvalue
    ours = chance_of_no_change(estimate([[value] for value in old]), estimate([[value] for value in new]))
    assert ours == pytest.approx(expected)
    assert chance_of_no_change(Estimate(1.0, 1), Estimate(1.0, 1)) is None
