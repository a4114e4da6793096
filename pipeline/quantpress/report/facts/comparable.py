"""Which of several measurements of a recipe are compared: those under the workload and suite that most recipes have."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Hashable, Iterable
from typing import TypeVar

from quantpress.report.facts.data import Load, Recipe, Speed

T = TypeVar("T", bound=Hashable)


def aligned(recipes: list[Recipe]) -> list[Recipe]:
    """The recipes with the workload and the suite in front that most of them share, so that they compare.

    Among equals it is the one that most were measured under last.
    """
    by_load = _shared([_load_of(speed) for speed in recipe.speeds if speed.concurrencies] for recipe in recipes)
    by_suite = _shared([score.suite for score in recipe.scores] for recipe in recipes)
    in_order = []
    for recipe in recipes:
        # Where the shared one is missing, one with concurrencies: a load by request rate shows neither goal.
        speeds = sorted(recipe.speeds, key=lambda speed: (_load_of(speed) != by_load, not speed.concurrencies))
        scores = sorted(recipe.scores, key=lambda score: score.suite != by_suite)
        front = {"throughput": next(iter(speeds), None), "accuracy": next(iter(scores), None)}
        others = {"other_workloads": speeds[1:], "other_suites": scores[1:]}
        in_order.append(recipe.model_copy(update=front | others))
    return in_order


def _shared(kinds: Iterable[list[T]]) -> T | None:
    """What most of the lists hold; among equals, what is first in most. None if all are empty."""
    lists = [kind for kind in kinds if kind]
    counted = Counter(kind for each in lists for kind in set(each))
    first = Counter(each[0] for each in lists)
    return max(counted, key=lambda kind: (counted[kind], first[kind]), default=None)


def compared_suite(recipes: list[Recipe]) -> str | None:
    """The suite on which most recipes were scored: only those are compared."""
    return _shared([recipe.accuracy.suite] for recipe in recipes if recipe.accuracy)


def is_on_suite(recipe: Recipe, suite: str | None) -> bool:
    """Whether a recipe's accuracy can be compared with that of others on this suite."""
    return recipe.accuracy is not None and recipe.accuracy.suite == suite


def compared_load(recipes: list[Recipe]) -> Load | None:
    """The workload, machine and pairing under which most recipes were measured: only those are compared."""
    measured = [(recipe, recipe.throughput) for recipe in recipes if recipe.throughput]
    measured = [(recipe, speed) for recipe, speed in measured if speed.concurrencies]
    shared = _shared([_load_of(speed)] for _, speed in measured)
    if shared is None:
        return None
    chosen = [(recipe, speed) for recipe, speed in measured if _load_of(speed) == shared]
    levels = [speed.concurrencies for _, speed in chosen]
    common = set.intersection(*levels) or set.union(*levels)
    names = [recipe.name for recipe, _ in chosen]
    first = chosen[0][1]
    return Load(
        workload=first.workload_name,
        conditions=first.conditions,
        machine=first.served_on,
        pairing=first.pairing,
        recipes=names,
        least=min(common),
        most=max(common),
    )


def is_under(speed: Speed, load: Load | None) -> bool:
    """Whether a measurement can be compared with those under this load."""
    return load is not None and _load_of(speed) == _in_words(load)


def is_under_but_for_pairing(speed: Speed, load: Load | None) -> bool:
    """Whether only the pairing may differ."""
    return load is not None and _load_of(speed)[:-1] == _in_words(load)[:-1]


def _load_of(speed: Speed) -> tuple[str, str, str, str]:
    """What two measurements must have in common to be compared; the pairing comes last."""
    return speed.workload_name, json.dumps(speed.conditions, sort_keys=True), speed.served_on, speed.pairing


def _in_words(load: Load) -> tuple[str, str, str, str]:
    return load.workload, json.dumps(load.conditions, sort_keys=True), load.machine, load.pairing
