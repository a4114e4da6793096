"""Which of several measurements of a recipe are compared: those under the workload and suite that most recipes have."""

from __future__ import annotations

from collections import Counter
from typing import Any

from quantpress.report.facts.fields import Data, get


def aligned(recipes: list[Data]) -> list[Data]:
    """The recipes with the workload and the suite in front that most of them share, so that they compare.

    Among equals it is the one that most were measured under last.
    """
    by_load = _shared([[_load_of(one) for one in speeds(recipe) if _levels(one)] for recipe in recipes])
    by_suite = _shared([[one["suite"] for one in scores(recipe)] for recipe in recipes])
    found = []
    for recipe in recipes:
        # Where the shared one is missing, one with concurrencies: a load by request rate shows neither goal.
        fast = sorted(speeds(recipe), key=lambda one: (_load_of(one) != by_load, not _levels(one)))
        good = sorted(scores(recipe), key=lambda one: one["suite"] != by_suite)
        front = {"throughput": next(iter(fast), None), "accuracy": next(iter(good), None)}
        found.append({**recipe, **front, "other_workloads": fast[1:], "other_suites": good[1:]})
    return found


def _shared(kinds: list[list[Any]]) -> Any:
    """What most of the lists hold; among equals, what is first in most. None if all are empty."""
    counted = Counter(kind for each in kinds for kind in set(each))
    first = Counter(each[0] for each in kinds if each)
    return max(counted, key=lambda kind: (counted[kind], first[kind]), default=None)


def speeds(recipe: Data) -> list[Data]:
    """Everything that was measured in vLLM: under the compared workload first."""
    return [*([recipe["throughput"]] if recipe["throughput"] else []), *get(recipe, "other_workloads", default=[])]


def scores(recipe: Data) -> list[Data]:
    """Every suite that was scored: the compared one first."""
    return [*([recipe["accuracy"]] if recipe["accuracy"] else []), *get(recipe, "other_suites", default=[])]


def compared_load(recipes: list[Data]) -> Data | None:
    """The workload and machine under which most recipes were measured: only those are compared with each other."""
    measured = [(recipe, recipe["throughput"]) for recipe in recipes if _levels(recipe["throughput"])]
    load = _shared([[_load_of(one)] for _, one in measured])
    if load is None:
        return None
    workload, machine = load
    chosen = [(recipe, one) for recipe, one in measured if _load_of(one) == load]
    levels = [_levels(one) for _, one in chosen]
    common = set.intersection(*levels) or set.union(*levels)
    names = [recipe["name"] for recipe, _ in chosen]
    return {"workload": workload, "machine": machine, "recipes": names, "least": min(common), "most": max(common)}


def _levels(throughput: Data | None) -> set[int]:
    """The concurrencies that were measured; loads by request rate have none."""
    points = get(throughput, "points", default=[])
    return {point["concurrency"] for point in points if point["concurrency"] is not None}


def _load_of(throughput: Data) -> tuple[str, str]:
    return str(get(throughput, "workload", "name", default="unknown")), where(throughput)


def where(throughput: Data) -> str:
    """The hardware that served, in words."""
    if throughput["foreign"]:
        return "servers that someone else runs, whose hardware and settings are not known here"
    machine = throughput["machine"]
    gpus = get(machine, "gpus", default=[])
    cores = get(machine, "cores", default="?")
    return (
        f"{', '.join(gpus)}, {cores} cores"
        if gpus
        else f"{get(machine, 'processor', default='unknown CPU')} CPU, {cores} cores"
    )


def point_at(throughput: Data | None, concurrency: int) -> Data | None:
    points = get(throughput, "points", default=[])
    return next((point for point in points if point["concurrency"] == concurrency), None)
