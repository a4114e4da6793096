"""The comparison of two models on the same documents, against cases with known answers."""

from typing import Any

import pytest

from quantpress.errors import StageError
from quantpress_evaluate.compare import compare_task


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
    assert row["changed_answers"] == pytest.approx(0.12)


def test_the_same_answers_are_no_difference() -> None:
    row = compare_task("t", "acc", answers("rrwr" * 10), answers("rrwr" * 10))
    assert row["p_value"] == 1.0
    assert not row["significant"]
    assert row["changed_answers"] == 0.0


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
    assert compare_task("t", "acc_norm", [one], [one])["changed_answers"] == 0
    assert compare_task("t", "acc_norm", [one], [other])["changed_answers"] == 1


@pytest.mark.parametrize("other", [answers("rrr"), [{**item, "doc_hash": "x"} for item in answers("rrrr")]])
def test_different_documents_are_refused(other: list[dict[str, Any]]) -> None:
    with pytest.raises(StageError, match="different documents"):
        compare_task("t", "acc", answers("rrrr"), other)
