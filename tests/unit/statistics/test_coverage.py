"""Intervals hold the truth, and gates at their limit do not pass, where the truth is known: a few repetitions of the
cases of `make bench-coverage`."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy
import pytest

COVERAGE: dict[str, Any] = runpy.run_path(str(Path(__file__).parents[3] / "benchmarks" / "coverage.py"))
CASES = {case.name: case for case in COVERAGE["CASES"]}


@pytest.mark.parametrize(
    ("name", "least", "passed"),
    [
        ("recovery, 20 documents", 0.93, 0.03),
        ("recovery, 50 documents", 0.93, 0.03),
        ("recovery, 200 documents", 0.92, 0.05),
        ("recovery, 4 tasks of 12", 0.93, 0.04),
        ("recovery, 12, 100 and 400, 15% lost in the smallest", 0.93, 0.03),
        ("recovery, 57 subjects of 2, as one", 0.92, 0.05),
        ("recovery, 50 passages of 5, losses hang together", 0.88, 0.07),
        ("recovery of fractions, 48 documents, a third changed", 0.88, 0.07),
        ("flips, 200 documents, 1%", 0.93, 0.04),
        ("flips, 4 tasks of 48, 3%", 0.92, 0.05),
        ("KL, acc_norm, 48 documents", 0.89, 0.08),
        ("log perplexity ratio, 2 texts", 0.92, 0.05),
        ("log perplexity ratio, 5 texts", 0.92, 0.05),
    ],
)
def test_intervals_hold_the_truth(name: str, least: float, passed: float) -> None:
    found = COVERAGE["count"](CASES[name], 60 if "passages" in name or "fractions" in name else 150)
    assert found.covered >= least
    assert found.passed <= passed


def test_what_counts_is_not_chosen_by_the_scores_that_recovery_divides_by() -> None:
    random = numpy.random.default_rng(3)
    kept = [value for _ in range(400) if (value := COVERAGE["kept_recovery"](random)) is not None]
    assert len(kept) > 100
    assert 0.99 <= sum(kept) / len(kept) <= 1.01


def test_equal_models_are_seldom_called_different() -> None:
    random = numpy.random.default_rng(5)
    assert sum(COVERAGE["called_different"](random) for _ in range(200)) <= 18  # 5% are 10
