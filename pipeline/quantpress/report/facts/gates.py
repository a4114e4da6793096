"""Which recipes passed their accuracy gates, each on its own and all of a report together."""

from __future__ import annotations

import re

from quantpress.artifact.accuracy import TRANSFORMERS_ONLY
from quantpress.report.facts.data import Gate, Recipe, Score
from quantpress.statistics import several
from quantpress.statistics.conventions import CONFIDENCE

PASSED_ELSEWHERE = "passed for transformers only"
PASSED_ALONE = "not quite passed"
# Of each decision on a gate the state of a recipe whose worst it is, the worst first.
_STATES = {
    "fail": "failed",
    "inconclusive": "inconclusive",
    TRANSFORMERS_ONLY: PASSED_ELSEWHERE,
    "pass": "passed",
}
# In the order of a report: the recipes to deploy first.
ORDER = ("passed", "no gate", PASSED_ALONE, "inconclusive", "not scored", PASSED_ELSEWHERE, "failed")
GATED = (*_STATES.values(), PASSED_ALONE)
_LIMIT = re.compile(r"[<>]= *(\d+(?:\.\d+)?)(%?)$")


def gate_states(recipes: list[Recipe]) -> dict[str, str]:
    """By recipe: passed, not quite passed, passed for transformers only, failed, inconclusive, no gate, or not scored.

    The worst of all gates of a recipe counts. Where several recipes have gates, one exactly at its limit passes by
    chance the more easily the more there are: those that pass together by Holm's rule have passed, and the others that
    passed have done so on their own.
    """
    states = {recipe.name: on_its_own(recipe.scores) for recipe in recipes}
    gated = [recipe for recipe in recipes if states[recipe.name] in GATED]
    chances = {recipe.name: _chance(recipe) if states[recipe.name] == "passed" else 1.0 for recipe in gated}
    held = several.holm(chances)
    return {
        name: PASSED_ALONE if state == "passed" and len(gated) > 1 and name not in held else state
        for name, state in states.items()
    }


def on_its_own(scores: list[Score]) -> str:
    """The worst of all its gates, whatever other recipes there are."""
    if not scores:
        return "not scored"
    decided = {gate.decision for score in scores for gate in score.gates}
    return next((state for decision, state in _STATES.items() if decision in decided), "no gate")


def _chance(recipe: Recipe) -> float:
    """That a recipe which passed misses a gate: of all its gates the greatest, because it has to pass each."""
    return max(_chance_of(gate) for score in recipe.scores for gate in score.gates)


def _chance_of(gate: Gate) -> float:
    """The p-value of a gate that was passed, from its interval where none was kept; several looks at more and more
    documents share the error among them (Bonferroni), as their confidence says."""
    confidence = gate.confidence or CONFIDENCE
    looks = (1 - CONFIDENCE) / (1 - confidence)
    if gate.p_value is not None:
        return min(1.0, gate.p_value * looks)
    limit = _LIMIT.search(gate.gate)
    if limit is None or gate.value is None or gate.interval is None:
        return 1.0
    number = float(limit[1]) / (100 if limit[2] else 1)
    return min(1.0, several.chance_beyond(gate.value, gate.interval, number, confidence) * looks)
