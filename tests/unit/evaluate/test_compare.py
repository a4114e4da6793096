"""The comparison of two models on the same documents, against cases with known answers."""

import math
from typing import Any

import numpy
import pytest

from quantpress.artifact.accuracy import Mean
from quantpress.errors import StageError
from quantpress_evaluate.comparison.compare import Scored, compare_suite, compare_task
from quantpress_evaluate.comparison.figures import Columns, figures
from quantpress_evaluate.comparison.samples import filtered


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
    assert (row.lost, row.gained) == (10, 2)
    assert row.p_value == pytest.approx(158 / 4096)
    assert row.significant
    assert row.difference == pytest.approx(-0.08)
    assert row.baseline == pytest.approx(0.9)
    assert row.candidate == pytest.approx(0.82)
    assert row.flips == pytest.approx(0.12)


def test_the_same_answers_are_no_difference() -> None:
    row = compare_task("t", "acc", answers("rrwr" * 10), answers("rrwr" * 10))
    assert row.p_value == 1.0
    assert not row.significant
    assert row.flips == 0.0


def test_a_small_loss_is_within_chance() -> None:
    assert not compare_task("t", "acc", answers("r" * 20), answers("r" * 18 + "ww")).significant


@pytest.mark.parametrize(
    ("pattern", "targets", "no_signal"),
    [("rw" * 24, None, True), ("r" * 40 + "w" * 8, None, False), ("r" * 36 + "w" * 12, "1" * 36 + "0" * 12, True)],
    ids=["coin", "able", "always the most frequent answer"],
)
def test_no_better_than_guessing_is_no_signal(pattern: str, targets: str | None, no_signal: bool) -> None:
    both = answers(pattern, targets)
    assert compare_task("t", "acc", both, both).no_signal is no_signal


def test_the_first_of_choices_that_every_document_has_for_itself_is_no_guess() -> None:
    # As in BLiMP, where the right sentence always stands first.
    both = [sample(number, 0, [0.0, -1.0], [f"good {number}", f"bad {number}"]) for number in range(40)]
    row = compare_task("blimp", "acc", both, both)
    assert (row.guessing, row.no_signal) == (0.5, False)
    same = [sample(number, 0, [0.0, -1.0]) for number in range(40)]
    assert compare_task("t", "acc", same, same).guessing == 1.0


def test_a_guess_of_a_group_is_one_for_all_of_its_parts() -> None:
    # Every part's most frequent answer is right in 3 of 4; over both parts either answer is right in half.
    ones, zeros = answers("rrrw" * 10, "1110" * 10), answers("rrrw" * 10, "0001" * 10)
    tasks = {name: Scored("acc", part, part, group="mmlu") for name, part in (("a", ones), ("b", zeros))}
    result = compare_suite(tasks)
    assert not any(row.no_signal for row in result.tasks.values())
    assert result.overall.above_chance == 1.0


def test_a_guess_of_a_group_counts_documents_without_choices_as_none() -> None:
    """As agieval, one of whose parts is answered in words: of two choices a coin has half, of the others nothing."""
    choices = answers("rw" * 20)
    words = [{**one, "filtered_resps": ["42"], "arguments": [["q", {}]], "target": "42"} for one in answers("w" * 40)]
    parts = {"a": Scored("acc", choices, choices, group="g"), "b": Scored("acc", words, words, group="g")}
    assert all(row.no_signal for row in compare_suite(parts).tasks.values())


def fraction(number: int, value: float) -> dict[str, Any]:
    """As of truthfulqa_mc2, whose target is the first choice for all documents."""
    return {**sample(number, 0, [0.0, -1.0]), "acc": value}


def test_a_fraction_is_left_out_above_chance() -> None:
    parts = [fraction(number, 0.4 + number / 100) for number in range(20)]
    right = answers("r" * 40)
    result = compare_suite(
        {"mc2": Scored("acc", parts, parts), "t": Scored("acc", right, answers("r" * 30 + "w" * 10))}
    )
    assert result.tasks["mc2"].above_chance is None
    assert result.overall.above_chance == pytest.approx((0.75 - 0.5) / (1 - 0.5))
    assert result.overall.recovery == pytest.approx((0.495 + 0.75) / (0.495 + 1))


def test_acc_norm_judges_the_answer_per_character() -> None:
    one = {**sample(0, 1, [-4.0, -6.0], ["abc", "abcdefghi"]), "acc_norm": 1.0}  # -4/3 < -6/9: the long one
    other = {**sample(0, 1, [-4.0, -13.0], ["abc", "abcdefghi"]), "acc_norm": 0.0}
    assert compare_task("t", "acc_norm", [one], [one]).flips == 0
    assert compare_task("t", "acc_norm", [one], [other]).flips == 1


@pytest.mark.parametrize("other", [answers("rrr"), [{**item, "doc_hash": "x"} for item in answers("rrrr")]])
def test_different_documents_are_refused(other: list[dict[str, Any]]) -> None:
    with pytest.raises(StageError, match="different documents"):
        compare_task("t", "acc", answers("rrrr"), other)


def test_recovery_is_a_ratio_with_an_interval() -> None:
    row = compare_task("t", "acc", answers("r" * 80 + "w" * 20), answers("r" * 72 + "w" * 28))
    assert row.recovery == pytest.approx(0.9)
    low, high = row.recovery_interval
    assert 0.8 < low < 0.9 < high < 0.98
    assert row.kl_interval[0] <= row.kl <= row.kl_interval[1]


def test_nothing_changed_in_few_documents_is_not_known_for_certain() -> None:
    row = compare_task("t", "acc", answers("rrwr" * 10), answers("rrwr" * 10))
    assert row.recovery == 1.0
    assert row.recovery_interval[0] < 0.95
    assert row.recovery_interval[1] > 1.05
    assert row.flips_interval == (0.0, pytest.approx(1 - 0.025 ** (1 / 40)))
    assert row.kl == 0.0


def test_divergence_against_a_case_by_hand() -> None:
    # p = (3/4, 1/4), q = (1/2, 1/2): 3/4 log(3/2) + 1/4 log(1/2)
    one, other = sample(0, 0, [math.log(3), 0.0]), sample(0, 0, [0.0, 0.0])
    row = compare_task("t", "acc", [one] * 1, [other] * 1)
    assert row.kl == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert row.kl_interval is None


def test_a_baseline_with_nothing_right_has_no_recovery() -> None:
    row = compare_task("t", "acc", answers("w" * 10), answers("r" * 10))
    assert (row.recovery, row.recovery_interval) == (None, None)


def test_tasks_of_different_sizes_count_alike() -> None:
    samples = {
        "large": Scored("acc", answers("r" * 400), answers("r" * 400)),
        "small": Scored("acc", answers("r" * 40), answers("r" * 20 + "w" * 20)),
        "coin": Scored("acc", answers("rw" * 20), answers("w" * 40)),
    }
    result = compare_suite(samples)
    assert result.mean == Mean(tasks=2, baseline=1.0, candidate=0.75)
    assert result.overall.recovery == pytest.approx(0.75)
    low, high = result.overall.recovery_interval
    assert low < 0.75 < high
    assert (result.overall.lost, result.overall.gained) == (20, 0)
    assert result.overall.p_value == pytest.approx(2 / 2**20)
    assert compare_suite({"coin": samples["coin"]}).overall is None


def simulated(random: Any, documents: int, weight: float = 1.0) -> Columns:
    """Documents of two models whose true figures are known: see TRUTH."""
    base = random.random(documents) < 0.7
    own = numpy.where(base, random.random(documents) < 0.95, random.random(documents) < 0.1)
    return Columns(
        weight,
        base=base.astype(float),
        own=own.astype(float),
        flips=(base != own).astype(float),
        kl=random.gamma(1.0, 0.1, documents),
    )


def test_a_wider_confidence_is_a_wider_interval() -> None:
    task = simulated(numpy.random.default_rng(1), 200)
    for name in ("recovery", "flips", "kl"):
        narrow, wide = figures([task]).interval(name), figures([task], confidence=0.995).interval(name)
        assert narrow is not None and wide is not None
        assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_the_suite_is_tested_by_its_weights() -> None:
    heavy = Scored("acc", answers("r" * 40 + "w" * 8), answers("r" * 24 + "w" * 23 + "r"), weight=3.0)
    light = Scored("acc", answers("r" * 370 + "w" * 30), answers("r" * 392 + "w" * 8))
    result = compare_suite({"heavy": heavy, "light": light})
    assert result.overall.difference < -0.1
    assert result.overall.difference_interval[1] < 0
    assert result.overall.p_value < 0.01  # 16 lost and 23 gained, all alike, would be 0.34


def test_a_loss_that_is_not_shown_comes_with_the_smallest_that_would_be() -> None:
    row = compare_task("t", "acc", answers("r" * 40 + "w" * 8), answers("r" * 38 + "w" * 10))
    assert not row.significant
    assert 0.12 < row.smallest_loss < 0.2


def test_recovery_above_chance_tells_a_guesser() -> None:
    # The model has 80% right of two choices, the checkpoint guesses: 0.625 recovered, all of it luck.
    row = compare_task("t", "acc", answers("r" * 160 + "w" * 40), answers("rw" * 100))
    assert row.recovery == pytest.approx(0.625)
    assert row.above_chance == pytest.approx(0.0)
    assert row.above_chance_interval[0] < 0 < row.above_chance_interval[1] < 0.35


def test_the_parts_of_a_group_are_one_mean_over_documents() -> None:
    large, small = answers("r" * 90 + "w" * 10), answers("rrrrrrrr" + "ww")
    tasks = {
        "mmlu_a": Scored("acc", large, large, weight=0.5, group="mmlu"),
        "mmlu_b": Scored("acc", small, answers("wwwwrrrr" + "ww"), weight=0.5, group="mmlu"),
    }
    result = compare_suite(tasks)
    assert (result.mean.tasks, result.mean.baseline, result.mean.candidate) == (1, 98 / 110, 94 / 110)
    assert result.overall.recovery == pytest.approx(94 / 98)
    assert [row.weight for row in result.tasks.values()] == pytest.approx([100 / 110, 10 / 110])
    assert not any(row.no_signal for row in result.tasks.values())  # ten documents alone could not tell


def with_passages(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**row, "doc": {"passage": f"passage {number // 4}"}} for number, row in enumerate(rows)]


def test_documents_that_share_a_passage_are_drawn_together() -> None:
    base, own = answers("r" * 80 + "w" * 20), answers("r" * 68 + "w" * 32)
    alone = compare_suite({"t": Scored("acc", base, own)}).tasks["t"]
    passages = Scored("acc", with_passages(base), with_passages(own), cluster="passage")
    together = compare_suite({"t": passages}).tasks["t"]
    assert together.recovery == alone.recovery
    assert together.recovery_interval[0] < alone.recovery_interval[0] - 0.05
    assert together.p_value > alone.p_value  # three passages, not twelve documents
    assert together.smallest_loss > alone.smallest_loss + 0.1
    with pytest.raises(StageError, match="t: its documents have no field 'story'"):
        compare_suite({"t": Scored("acc", with_passages(base), with_passages(own), cluster="story")})


def test_where_no_document_changed_as_many_are_sure_to_count_as_there_are_passages() -> None:
    both = answers("r" * 80 + "w" * 20)
    passages = Scored("acc", with_passages(both), with_passages(both), cluster="passage")
    few = compare_task("t", "acc", both[:25], both[:25])
    assert compare_suite({"t": passages}).tasks["t"].smallest_loss == few.smallest_loss


def test_a_divergence_of_acc_norm_is_by_character() -> None:
    long, short = " " + "x" * 80, " " + "x" * 40
    rows = [
        {**sample(0, 0, values, [long[1:], short[1:]]), "acc_norm": 1.0} for values in ([-40.0, -24.0], [-48.0, -24.0])
    ]
    p, q = (1 / (1 + math.exp(-0.1)), 0.5)  # -0.5 against -0.6 a character; then -0.6 against -0.6
    expected = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    assert compare_task("t", "acc_norm", rows[:1], rows[1:]).kl == pytest.approx(expected)


def test_a_divergence_that_few_documents_hold_is_said() -> None:
    base = [sample(number, 0, [1.0, 0.0]) for number in range(100)]
    own = [sample(number, 0, [5.0, 0.0] if number < 4 else [1.01, 0.0]) for number in range(100)]
    result = compare_suite({"t": Scored("acc", base, own)}, count_no_signal=True)
    assert result.tasks["t"].kl_held_by_few > 0.9
    assert "5% of the documents hold most of the KL (100% in t)" in result.notes[0]
    assert compare_suite({"t": Scored("acc", base, base)}, count_no_signal=True).notes == []


def test_weights_count() -> None:
    good, bad = answers("r" * 100), answers("r" * 50 + "w" * 50)
    tasks = {"a": Scored("acc", good, good, weight=3.0), "b": Scored("acc", good, bad)}
    result = compare_suite(tasks)
    assert result.overall.recovery == pytest.approx(0.875)
    assert result.mean.candidate == pytest.approx(0.875)


def test_tasks_without_a_signal_count_only_if_asked() -> None:
    able, coin = answers("r" * 40), answers("rw" * 20)
    tasks = {"able": Scored("acc", able, able), "coin": Scored("acc", coin, answers("w" * 40))}
    assert compare_suite(tasks).overall.recovery == 1.0
    assert compare_suite(tasks, count_no_signal=True).overall.recovery == pytest.approx(1 / 1.5)


def text_sample(number: int, likelihood: float, words: int) -> dict[str, Any]:
    return {
        "doc_id": number,
        "doc_hash": str(number),
        "target": "t",
        "filtered_resps": [likelihood],
        "word_perplexity": [likelihood, words],
    }


def test_perplexities_are_compared_by_their_ratio() -> None:
    # 2 nats a word against 2.1: the ratio is exp(0.1) whatever the lengths of the documents.
    base = [text_sample(number, -2.0 * words, words) for number, words in enumerate((50, 100, 150))]
    own = [text_sample(number, -2.1 * words, words) for number, words in enumerate((50, 100, 150))]
    result = compare_suite({"text": Scored("word_perplexity", base, own)})
    row = result.tasks["text"]
    assert (row.baseline, row.candidate) == (pytest.approx(math.exp(2.0)), pytest.approx(math.exp(2.1)))
    assert row.perplexity_ratio == pytest.approx(math.exp(0.1))
    assert row.perplexity_ratio_interval == pytest.approx([math.exp(0.1)] * 2)
    assert (row.recovery, row.kl, row.flips, row.p_value) == (None, None, None, None)
    assert result.overall.perplexity_ratio == row.perplexity_ratio
    assert result.mean.tasks == 0


def generated(number: int, text: str, right: bool, name: str = "flexible-extract") -> dict[str, Any]:
    return {
        "doc_id": number,
        "doc_hash": str(number),
        "target": "7",
        "arguments": [["q", {"until": ["\n"]}]],
        "filtered_resps": [text],
        "filter": name,
        "exact_match": float(right),
    }


def test_generated_answers_flip_when_the_text_is_another() -> None:
    base = [generated(0, "7", True), generated(1, "8", False), generated(2, "7", True)]
    own = [generated(0, "7", True), generated(1, "9", False), generated(2, "6", False)]
    row = compare_task("math", "exact_match", base, own)
    assert (row.flips, row.lost, row.gained) == (pytest.approx(2 / 3), 1, 0)
    assert row.kl is None
    assert not row.no_signal
    nothing = compare_task("math", "exact_match", own[1:], own[1:])
    assert nothing.no_signal


def test_sides_without_a_common_filter_are_refused_and_no_filter_means_all() -> None:
    strict = [{**one, "filter": "strict"} for one in answers("rw")]
    other = [{**one, "filter": "flexible"} for one in answers("rw")]
    with pytest.raises(StageError, match="no filter in common"):
        Scored("acc", strict, other).selected()
    assert filtered([*strict, *other], None) == [*strict, *other]
    assert filtered([*strict, *other], "strict") == strict


def test_a_filter_chooses_among_the_answers_of_a_document() -> None:
    both = [generated(0, "7", True, "strict"), generated(0, "8", False, "loose")]
    assert compare_suite({"m": Scored("exact_match", both, both, "loose")}).tasks["m"].baseline == 0.0
    assert compare_suite({"m": Scored("exact_match", both, both)}).tasks["m"].baseline == 1.0
