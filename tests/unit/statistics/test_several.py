"""What holds of several claims at once."""

from __future__ import annotations

import random

import pytest

from quantpress.statistics import several


def test_holm_compares_the_least_with_a_share_of_the_error() -> None:
    chances = {"a": 0.004, "b": 0.012, "c": 0.02, "d": 0.5}  # of 0.025: a quarter, a third, a half
    assert several.holm(chances) == {"a"}
    assert several.holm({**chances, "b": 0.008}) == {"a", "b"}
    assert several.holm({**chances, "b": 0.008, "c": 0.012}) == {"a", "b", "c"}
    assert several.holm({"a": 0.024}) == {"a"}
    assert several.holm({}) == set()


def test_twelve_at_the_limit_seldom_pass() -> None:
    chance = random.Random(5)
    runs = [{str(number): chance.random() for number in range(12)} for _ in range(2000)]
    alone = sum(min(run.values()) < several.ONE_SIDED for run in runs) / len(runs)
    together = sum(bool(several.holm(run)) for run in runs) / len(runs)
    assert alone > 0.2
    assert together <= 0.036  # 2.5%, and three standard errors


def test_an_interval_gives_back_its_p_value() -> None:
    assert several.chance_beyond(10, (8, 12), 8, 0.95) == pytest.approx(0.025, abs=0.01)  # on the logarithm
    assert several.chance_beyond(0.0, (-1.0, 1.0), 1.0, 0.95) == pytest.approx(0.025)
    assert several.chance_beyond(0.0, (-1.0, 3.0), 3.0, 0.95) == pytest.approx(0.025)  # the arm towards the limit
    assert several.chance_beyond(0.0, (-1.0, 1.0), 1.0, 0.99) == pytest.approx(0.005)
    assert several.chance_beyond(1.0, (1.0, 1.0), 0.99, 0.95) == 0.0


def test_where_nothing_changed_changes_are_seldom_called() -> None:
    chance = random.Random(6)
    called = 0
    for _ in range(200):
        figures = [(chance.gauss(1, 0.1), chance.gauss(1, 0.1)) for _ in range(20)]
        chances = [
            several.chance_of_no_difference((old, (old - 0.196, old + 0.196)), (new, (new - 0.196, new + 0.196)))
            for old, new in figures
        ]
        called += any(several.changed(chances))
    assert called <= 20  # of 200 at 5% the upper 0.1%
    assert several.changed([]) == []
    assert several.changed([1e-6, 0.5, 0.9]) == [True, False, False]
