"""Whether the winners beat what costs nothing to make."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from quantpress.report.facts.comparable import is_under
from quantpress.report.facts.data import Goal, Load, Online, Ratio

_WORDS = {"latency": "TPOT", "throughput": "output tokens/s"}


def caveats(online: Sequence[Online], goals: Sequence[Goal], load: Load | None) -> list[str]:
    """For each method by which vLLM quantizes the model while it loads: how fast it is, and whether winners beat it."""
    return [sentence for one in online for sentence in _of(one, goals, load)]


def _of(one: Online, goals: Sequence[Goal], load: Load | None) -> Iterator[str]:
    if one.throughput is None:
        return
    if not is_under(one.throughput, load):
        yield f"{one.name}, which costs nothing to make, was measured otherwise than the recipes, so not compared."
        return
    for goal in goals:
        point = one.throughput.at(goal.concurrency) if goal.concurrency is not None else None
        ratio = point.ratio(goal.metric) if point and goal.goal in _WORDS else None
        if ratio:
            yield _held_against(one, goal, ratio)


def _held_against(one: Online, goal: Goal, ratio: Ratio) -> str:
    """A winner beats it if its whole interval is above the other's, as of two recipes. A measurement that is not to be
    trusted, or too small, shows neither."""
    where = f"{_WORDS[goal.goal]} at concurrency {goal.concurrency}"
    word, _, why = (ratio.verdict or "no verdict").partition(": ")
    if word in ("untrustworthy", "no verdict") or ratio.interval is None:
        said = f"{word}: {why}" if why else word
        return f"How fast {one.name} is, which costs nothing to make, is not known in {where}: {said}."
    edges = f" ({ratio.interval[0]:.2f} to {ratio.interval[1]:.2f})"
    text = f"{one.name}, which costs nothing to make, is {ratio.value:.2f}{edges} times as fast as the model in {where}"
    best = goal.figures.ratio if goal.winner and goal.figures else None
    if best is None:
        return f"{text}; no recipe wins there."
    beats = best.interval and best.interval[0] > ratio.interval[1]
    return f"{text}; {goal.winner} is {'' if beats else 'not '}shown to beat it."
