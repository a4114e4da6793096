"""The comparison of two models on the same documents, against cases with known answers."""

import math
from typing import Any

import numpy
import pytest

from quantpress.errors import StageError
from quantpress_evaluate.compare import compare_suite, compare_task, figures


def sample(number: int, target: int, likelihoods: list[float], choices: list[str] | None = None) -> dict[str, Any]:
    choices = choices or ["yes", "no"]
    best = max(range(len(likelihoods)), key=likelihoods.__getitem__)
    return {
        "doc_id": number,
        "doc_hash": str(number),
        "target": target,
        "arguments": [["context", f" {choice}"] for choice in choices],
        "filtered_resps": [[value, False] for value in likelihoods],
        "acc": float(best == target),
    }


def answers(pattern: str, targets: str | None = None) -> list[dict[str, Any]]:
    """One sample a letter: `r` right, `w` wrong; targets alternate unless given."""
    made = []
    for number, letter in enumerate(pattern):
        target = int(targets[number]) if targets else number % 2
        chosen = target if letter == "r" else 1 - target
        made.append(sample(number, target, [0.0 if index == chosen else -1.0 for index in range(2)]))
    return made


def test_mcnemar_against_the_textbook() -> None:
    # 10 documents lost, 2 gained: two-sided exact binomial, 2 * sum(C(12, k), k <= 2) / 2^12 = 158 / 4096.
    row = compare_task("t", "acc", answers("r" * 90 + "w" * 10), answers("r" * 80 + "w" * 10 + "r" * 2 + "w" * 8))
    assert (row["lost"], row["gained"]) == (10, 2)
    assert row["p_value"] == pytest.approx(158 / 4096)
    assert row["significant"]
    assert row["difference"] == pytest.approx(-0.08)
    assert row["baseline"] == pytest.approx(0.9)
    assert row["candidate"] == pytest.approx(0.82)
    assert row["changed"] == pytest.approx(0.12)


def test_the_same_answers_are_no_difference() -> None:
    row = compare_task("t", "acc", answers("rrwr" * 10), answers("rrwr" * 10))
    assert row["p_value"] == 1.0
    assert not row["significant"]
    assert row["changed"] == 0.0


def test_a_small_loss_is_within_chance() -> None:
    assert not compare_task("t", "acc", answers("r" * 20), answers("r" * 18 + "ww"))["significant"]


@pytest.mark.parametrize(
    ("pattern", "targets", "no_signal"),
    [("rw" * 24, None, True), ("r" * 40 + "w" * 8, None, False), ("r" * 36 + "w" * 12, "1" * 36 + "0" * 12, True)],
    ids=["coin", "able", "always the most frequent answer"],
)
def test_no_better_than_guessing_is_no_signal(pattern: str, targets: str | None, no_signal: bool) -> None:
    both = answers(pattern, targets)
    assert compare_task("t", "acc", both, both)["no_signal"] is no_signal


def test_acc_norm_judges_the_answer_per_character() -> None:
    one = {**sample(0, 1, [-4.0, -6.0], ["abc", "abcdefghi"]), "acc_norm": 1.0}  # -4/3 < -6/9: the long one
    other = {**sample(0, 1, [-4.0, -13.0], ["abc", "abcdefghi"]), "acc_norm": 0.0}
    assert compare_task("t", "acc_norm", [one], [one])["changed"] == 0
    assert compare_task("t", "acc_norm", [one], [other])["changed"] == 1


@pytest.mark.parametrize("other", [answers("rrr"), [{**item, "doc_hash": "x"} for item in answers("rrrr")]])
def test_different_documents_are_refused(other: list[dict[str, Any]]) -> None:
    with pytest.raises(StageError, match="different documents"):
        compare_task("t", "acc", answers("rrrr"), other)


def test_recovery_is_a_ratio_with_an_interval() -> None:
    row = compare_task("t", "acc", answers("r" * 80 + "w" * 20), answers("r" * 72 + "w" * 28))
    assert row["recovery"] == pytest.approx(0.9)
    low, high = row["recovery_interval"]
    assert 0.8 < low < 0.9 < high < 0.98
    assert row["kl_interval"][0] <= row["kl"] <= row["kl_interval"][1]


def test_equal_models_recover_everything_without_doubt() -> None:
    row = compare_task("t", "acc", answers("rrwr" * 10), answers("rrwr" * 10))
    assert (row["recovery"], row["recovery_interval"]) == (1.0, [1.0, 1.0])
    assert row["kl"] == 0.0


def test_divergence_against_a_case_by_hand() -> None:
    # p = (3/4, 1/4), q = (1/2, 1/2): 3/4 log(3/2) + 1/4 log(1/2)
    one, other = sample(0, 0, [math.log(3), 0.0]), sample(0, 0, [0.0, 0.0])
    row = compare_task("t", "acc", [one] * 1, [other] * 1)
    assert row["kl"] == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert row["kl_interval"] is None


def test_a_baseline_with_nothing_right_has_no_recovery() -> None:
    row = compare_task("t", "acc", answers("w" * 10), answers("r" * 10))
    assert (row["recovery"], row["recovery_interval"]) == (None, None)


def test_tasks_of_different_sizes_count_alike() -> None:
    samples = {
        "large": ("acc", answers("r" * 400), answers("r" * 400)),
        "small": ("acc", answers("r" * 40), answers("r" * 20 + "w" * 20)),
        "coin": ("acc", answers("rw" * 20), answers("w" * 40)),
    }
    result = compare_suite(samples)
    assert result["mean"] == {"tasks": 2, "baseline": 1.0, "candidate": 0.75}
    assert result["overall"]["recovery"] == pytest.approx(0.75)
    low, high = result["overall"]["recovery_interval"]
    assert low < 0.75 < high
    assert compare_suite({"coin": samples["coin"]})["overall"] is None


def test_the_interval_covers_a_known_recovery() -> None:
    # 200 simulations of 300 documents: baseline right with 0.8, candidate right on 95% of these and 10% of the rest.
    random = numpy.random.default_rng(7)
    truth = (0.8 * 0.95 + 0.2 * 0.1) / 0.8
    hits = 0
    for _ in range(200):
        base = random.random(300) < 0.8
        own = numpy.where(base, random.random(300) < 0.95, random.random(300) < 0.1)
        rows = [(float(one), float(other), 0.0, 0.0) for one, other in zip(base, own, strict=True)]
        low, high = figures([rows])["recovery_interval"]
        hits += low <= truth <= high
    assert 0.91 <= hits / 200 <= 0.985
