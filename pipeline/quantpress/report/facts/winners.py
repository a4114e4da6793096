"""Who wins latency and throughput, and who cannot be told apart from the winner."""

from __future__ import annotations

from quantpress.errors import enumerated
from quantpress.report.facts.data import Cell, Goal, GoalName, Load, Ratio, Recipe
from quantpress.statistics import ratios, several

MODEL = "the unquantized model"
Rival = tuple[Recipe, Ratio]  # with its ratio to the model under the load that decides
_WORDS = {"latency": "TPOT", "throughput": "output tokens/s"}
_METRICS = {"latency": "tpot_ms", "throughput": "output_tokens_s"}


def fastest(goal: GoalName, competing: list[Recipe], load: Load | None, gated: bool) -> Goal:
    """The winner for latency (TPOT at the least concurrency) or throughput (tokens/s at the greatest).

    A recipe is ahead of the model if it is faster by `ratios.verdict`, and all that are ahead are so together (Holm).
    """
    metric = _METRICS[goal]
    if load is None:
        by_rate = any(recipe.throughput for recipe in competing)
        how = "at a concurrency, only at request rates" if by_rate else "in vLLM"
        why = f"No recipe was measured {how}: quantpress bench RECIPE."
        return Goal(goal=goal, metric=metric, state="not measured", reason=why)
    concurrency = load.least if goal == "latency" else load.most
    rivals = beside_the_model(competing, load, concurrency, metric)
    if not rivals and gated:
        why = "No recipe that passed its gate was measured beside the model."
        return Goal(goal=goal, metric=metric, state="no candidate", reason=why)
    if not rivals:
        why = "No recipe was measured beside the model."
        return Goal(goal=goal, metric=metric, state="not measured", reason=why)
    rivals.sort(key=lambda rival: rival[1].value, reverse=True)
    held = several.holm({recipe.name: _chance(ratio) for recipe, ratio in rivals})
    ahead = [rival for rival in rivals if rival[0].name in held]
    where = f"{MODEL} in {_WORDS[goal]} at concurrency {concurrency}"
    if ahead:
        return _won(goal, concurrency, where, ahead[0], [rival for rival in rivals if rival is not ahead[0]])
    return _open(goal, concurrency, where, rivals)


def beside_the_model(recipes: list[Recipe], load: Load, concurrency: int, metric: str) -> list[Rival]:
    """Of the recipes under the compared load those with a ratio, and that."""
    under_load = [recipe for recipe in recipes if recipe.name in load.recipes]
    return [(recipe, ratio) for recipe in under_load if (ratio := recipe.ratio(concurrency, metric))]


def _chance(ratio: Ratio) -> float:
    """The p-value of being ahead of the model; 1 for what is not to be trusted."""
    if ratio.verdict != "faster" or ratio.error is None or ratio.degrees is None:
        return 1.0
    return ratios.chance_of_no_gain(ratio.value, ratio.error, ratio.degrees)


def _won(goal: GoalName, concurrency: int, where: str, winner: Rival, others: list[Rival]) -> Goal:
    """The fastest that is ahead of the model wins. Whoever may be as fast is named, ahead of the model or not: those
    whose interval reaches the winner's, and those of whom nothing can be said."""
    recipe, ratio = winner
    assert ratio.interval  # it is ahead
    known = [(other, its) for other, its in others if its.interval and not _is_distrusted(its)]
    close = [other.name for other, its in known if its.interval and its.interval[1] >= ratio.interval[0]]
    unknown = [other.name for other, its in others if its.interval is None or _is_distrusted(its)]
    text = f"Ahead of {where} by more than measurements differ by chance."
    whose = "its interval reaches" if len(close) == 1 else "their intervals reach"
    text += f" Not told apart from {enumerated(close)}: {whose} this one's." if close else ""
    text += f" Perhaps as fast, but measured too badly to say: {enumerated(unknown)}." if unknown else ""
    return Goal(
        goal=goal,
        metric=_METRICS[goal],
        state="shown",
        reason=text,
        winner=recipe.name,
        tied=[*close, *unknown],
        concurrency=concurrency,
        figures=_cell(recipe, concurrency, _METRICS[goal]),
    )


def _is_distrusted(ratio: Ratio) -> bool:
    return (ratio.verdict or "").startswith("untrustworthy")


def _open(goal: GoalName, concurrency: int, where: str, rivals: list[Rival]) -> Goal:
    """Nobody is shown to be ahead: the nearest is the one whose lower end is the highest, not the luckiest middle."""
    nearest, ratio = max(rivals, key=lambda rival: rival[1].interval[0] if rival[1].interval else 0.0)
    interval = f", {ratio.interval[0]:.2f} to {ratio.interval[1]:.2f}" if ratio.interval else ""
    text = f"No recipe is shown to beat {where}. The nearest is {nearest.name} ({ratio.value:.2f} times as fast"
    text += f"{interval}), but {_doubt(ratio, len(rivals))}."
    cell = _cell(nearest, concurrency, _METRICS[goal])
    return Goal(goal=goal, metric=_METRICS[goal], state="not shown", reason=text, concurrency=concurrency, figures=cell)


def _doubt(ratio: Ratio, rivals: int) -> str:
    """Why this ratio does not show that the recipe is ahead of the model."""
    word, _, why = (ratio.verdict or "no verdict").partition(": ")
    if word == "untrustworthy":
        return f"that is not to be trusted: {why}"
    if word == "no verdict":
        return f"that is too little to judge by ({why})"
    if word == "faster":
        return f"of {rivals} recipes one comes so far by chance"
    return f"its interval is not wholly above {1 + ratios.INDIFFERENCE:.2f}"


def _cell(recipe: Recipe, concurrency: int, metric: str) -> Cell:
    point = recipe.at(concurrency)
    base, own = (point.baseline, point.candidate) if point else (None, None)
    return Cell(
        recipe=recipe.name,
        baseline=base[metric].value if base else None,
        candidate=own[metric].value if own else None,
        ratio=recipe.ratio(concurrency, metric),
    )
