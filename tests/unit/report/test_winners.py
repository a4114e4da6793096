"""Who wins, who is named beside the winner, and what chance alone would make of several recipes."""

from __future__ import annotations

import math
import random
from pathlib import Path
from statistics import NormalDist
from typing import Any

import pytest

from quantpress.artifact.speed import ratio_of
from quantpress.artifact.throughput import Cell
from quantpress.report.facts import changes, collect, decide, gates, winners
from quantpress.report.facts.data import Gate, Load, Ratio, Recipe, Report
from quantpress.runtime import atomic
from quantpress.statistics import ratios, several

DATA = Path(__file__).parent / "data"
START, WITHIN = 0.03, 0.02


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """One real result."""
    folder = tmp_path_factory.mktemp("artifacts") / "tiny"
    for path in DATA.glob("*.json"):
        atomic.write_text(folder / "w8a8" / path.name, path.read_text())
    return collect.collect(folder, None)


def named(real: Report, name: str, by_start: list[list[float]], untrustworthy: list[str] | None = None) -> Recipe:
    """The real recipe, with these ratios at one request at once in every metric."""
    (recipe,) = real.recipes
    found, reasons = ratios.estimate(by_start), untrustworthy or []
    ratio = Ratio.of(found, reasons)
    assert recipe.throughput
    point = recipe.throughput.points[0]
    point = point.model_copy(
        update={"concurrency": 1, "ratios": dict.fromkeys(point.ratios, ratio), "untrustworthy": reasons}
    )
    speed = recipe.throughput.model_copy(update={"points": [point]})
    return recipe.model_copy(update={"name": name, "throughput": speed})


def won(recipes: list[Recipe]) -> Any:
    load = Load(workload="w", machine="m", recipes=[recipe.name for recipe in recipes], least=1, most=1)
    return winners.fastest("throughput", recipes, load, gated=False)


NARROW = [[1.08], [1.09], [1.085], [1.085]]
WIDE = [[1.15], [1.3], [0.95], [1.25]]


def test_a_wide_interval_beside_a_narrow_one_is_named(real: Report) -> None:
    goal = won([named(real, "wide", WIDE), named(real, "narrow", NARROW), named(real, "slow", [[0.9]] * 4)])
    assert (goal.winner, goal.tied) == ("narrow", ["wide"])
    assert "Not told apart from wide: its interval reaches this one's." in goal.reason


def test_who_was_measured_too_badly_is_named(real: Report) -> None:
    others = [named(real, "noisy", NARROW, ["it rained"]), named(real, "few", [[1.4, 1.5]])]
    goal = won([named(real, "narrow", NARROW), *others])
    assert goal.winner == "narrow"
    assert set(goal.tied) == {"noisy", "few"}
    assert "Perhaps as fast, but measured too badly to say: few and noisy." in goal.reason


def test_of_many_recipes_the_best_has_to_be_further_ahead(real: Report) -> None:
    lucky = [[1.075], [1.055], [1.065], [1.045]]  # faster, and just so
    recipes = [named(real, "lucky", lucky), *(named(real, f"r{number}", [[1.0]] * 4) for number in range(11))]
    assert recipes[0].ratio(1, "tpot_ms").verdict == "faster"  # type: ignore[union-attr]
    assert won(recipes[:1]).winner == "lucky"
    goal = won(recipes)
    assert goal.winner is None
    assert "but of 12 recipes one comes so far by chance" in goal.reason


def simulated(chance: random.Random, truth: float, starts: int = 4, rounds: int = 1) -> list[list[float]]:
    found = []
    for _ in range(starts):
        offset = chance.gauss(0, START) - chance.gauss(0, START)
        noise = [chance.gauss(0, WITHIN) - chance.gauss(0, WITHIN) for _ in range(rounds)]
        found.append([truth * math.exp(offset + own) for own in noise])
    return found


def test_a_better_recipe_is_seldom_left_unnamed(real: Report) -> None:
    """Two recipes, one better by 2%: it wins, or it is named beside the winner."""
    chance, unnamed, decided = random.Random(11), 0, 0
    for _ in range(150):
        goal = won([named(real, "worse", simulated(chance, 1.2)), named(real, "better", simulated(chance, 1.224))])
        decided += goal.winner is not None
        unnamed += goal.winner is not None and "better" not in (goal.winner, *goal.tied)
    assert decided > 100
    assert unnamed <= 10


def gate(recovery: float, error: float, confidence: float = 0.95, p_value: float | None = None) -> Gate:
    """One that asks for recovery>=0.99, decided by a normal interval."""
    half = NormalDist().inv_cdf((1 + confidence) / 2) * error
    decision = "pass" if recovery - half >= 0.99 else "fail" if recovery + half < 0.99 else "inconclusive"
    return Gate(
        gate="recovery>=99%",
        value=recovery,
        interval=(recovery - half, recovery + half),
        confidence=confidence,
        documents=100,
        decision=decision,
        p_value=p_value,
    )


def scored(real: Report, name: str, decided: list[Gate]) -> Recipe:
    (recipe,) = real.recipes
    assert recipe.accuracy
    score = recipe.accuracy.model_copy(update={"gates": decided})
    return recipe.model_copy(update={"name": name, "accuracy": score, "other_suites": []})


def test_of_twelve_recipes_at_the_limit_hardly_one_passes(real: Report) -> None:
    chance, alone, together = random.Random(12), 0, 0
    for _ in range(300):
        recipes = [scored(real, str(number), [gate(chance.gauss(0.99, 0.005), 0.005)]) for number in range(12)]
        states = gates.gate_states(recipes).values()
        alone += gates.PASSED_ALONE in states or "passed" in states
        together += "passed" in states
    assert alone > 0.18 * 300  # as it was, one in four
    assert together <= 18  # 2.5%, of which 300 runs see more with a chance of one in a thousand


def test_what_would_pass_alone_does_not_compete_and_is_named(real: Report) -> None:
    clear, just = gate(1.0, 0.001), gate(1.0, 0.0045)
    recipes = [scored(real, "clear", [clear]), *(scored(real, f"just{number}", [just]) for number in range(3))]
    decision = decide.decision_on(recipes)
    assert decision.gate_states == {"clear": "passed"} | {f"just{number}": "not quite passed" for number in range(3)}
    assert decision.goals[2].winner == "clear"
    assert "just0, just1 and just2 clear the usual bar of the gate, not this one" in " ".join(decision.caveats)
    assert decide.decision_on(recipes[1:2]).gate_states == {"just0": "passed"}


def test_a_recipe_has_to_pass_each_gate_and_looks_share_the_error(real: Report) -> None:
    clear, just = gate(1.0, 0.001), gate(1.0, 0.0045)
    both = [scored(real, "a", [clear, just]), scored(real, "b", [clear]), scored(real, "c", [clear])]
    assert gates.gate_states(both)["a"] == "passed"  # 0.013, the greatest of three, has the whole 2.5%
    of_two_looks = gate(1.0, 0.0044, confidence=0.975)
    assert of_two_looks.decision == "pass"
    states = gates.gate_states([scored(real, "a", [of_two_looks]), scored(real, "b", [just])])
    assert set(states.values()) == {"not quite passed"}
    kept = gate(1.0, 0.0045, p_value=1e-6)
    assert gates.gate_states([scored(real, "a", [kept]), scored(real, "b", [gate(0.9, 0.01)])])["a"] == "passed"


def test_unchanged_figures_seldom_move(real: Report) -> None:
    """Two reports of the same twelve recipes: hardly any figure is called better or worse."""
    chance, reports_with_one = random.Random(13), 0
    for _ in range(30):
        old, new = (
            real.model_copy(
                update={"recipes": [named(real, f"r{number}", simulated(chance, 1.1)) for number in range(12)]}
            )
            for _ in range(2)
        )
        rows = changes.moved_since(old, new, "old").rows
        reports_with_one += any(row.verdict in ("better", "worse") for row in rows)
    assert reports_with_one <= 6  # of 30 at 5% the upper 0.1%


def test_bench_and_headline_agree_on_three_pairs_that_are_all_ahead(real: Report) -> None:
    pairs = [1.044, 1.148, 1.051]
    cells = [
        Cell(role=role, concurrency=1, round=number, figures={"output_throughput": pace, "median_tpot_ms": 1 / pace})
        for number, ratio in enumerate(pairs)
        for role, pace in (("baseline", 1.0), ("candidate", ratio))
    ]
    for key, more in (("output_throughput", True), ("median_tpot_ms", False)):
        found = ratio_of(cells, key, more)
        assert ratios.verdict(found) == "no difference shown"
    assert won([named(real, "a", [pairs])]).winner is None
    assert several.holm({"a": 1.0}) == set()


def test_of_recipes_of_one_size_none_is_nearer_than_one_that_was_not_scored(real: Report) -> None:
    (scored,) = real.recipes
    assert scored.accuracy
    scored = scored.model_copy(update={"accuracy": scored.accuracy.model_copy(update={"gates": []})})
    other = scored.model_copy(update={"name": "other", "accuracy": None, "other_suites": []})
    (goal,) = [goal for goal in decide.decision_on([scored, other]).goals if goal.goal == "memory"]
    assert goal.winner == scored.name
    assert goal.reason.startswith("other is as small within 2%, and whose KL is less is not known.")
    same = scored.model_copy(update={"name": "same"})
    (goal,) = [goal for goal in decide.decision_on([scored, same, other]).goals if goal.goal == "memory"]
    assert "the least KL, though not beyond noise (that of other is not known on this suite)." in goal.reason
