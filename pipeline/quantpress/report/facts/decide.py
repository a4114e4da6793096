"""Which recipe wins for what, under the accuracy gates, and how sure that is.

A recipe competes if it passed every gate, or if no recipe has a gate. It wins latency or throughput only if it is shown
to be ahead of the unquantized model by the rule of `bench` (its whole interval is above by more than the indifference).
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from quantpress.artifact import truth
from quantpress.artifact.throughput import INDIFFERENCE, MIN_PAIRS
from quantpress.artifact.upkeep import worst_decision
from quantpress.report.facts.comparable import compared_load, point_at, scores
from quantpress.report.facts.fields import Data, get

# Checkpoints whose sizes are this close are equal for memory; the better accuracy decides between them.
SAME_SIZE = 0.02
MODEL = "the unquantized model"
_BACKENDS = {"hf": "transformers", "vllm": "the vLLM that serves"}
PASSED_ELSEWHERE = "passed for transformers only"
_STATES = {
    "pass": "passed",
    truth.TRANSFORMERS_ONLY: PASSED_ELSEWHERE,
    "fail": "failed",
    "inconclusive": "inconclusive",
}


def decide(data: Data) -> Data:
    """The first screen of the report as data; `headline`, `reason` and `caveats` are sentences."""
    recipes = data["recipes"]
    states = {recipe["name"]: gate_state(recipe) for recipe in recipes}
    gated = any(state in _STATES.values() for state in states.values())
    competing = [recipe for recipe in recipes if not gated or states[recipe["name"]] == "passed"]
    load = compared_load(recipes)
    goals = [
        _faster("latency", "tpot_ms", "TPOT", competing, load, gated),
        _faster("throughput", "output_tokens_s", "output tokens/s", competing, load, gated),
        _memory(competing, gated),
    ]
    return {
        "gate_states": states,
        "gated": gated,
        "load": load,
        "goals": goals,
        "headline": _headline(goals, gated, competing),
        "front": front(recipes, load),
        # What the measurement cannot say of another machine comes first: it is what a hurried reader must not miss.
        "caveats": _engine_caveats(recipes)
        + _speed_caveats(recipes, load)
        + _gate_caveats(recipes, states, gated)
        + _accuracy_caveats(recipes),
    }


def gate_state(recipe: Data) -> str:
    """passed, passed for transformers only, failed, inconclusive, no gate, or not scored: the worst of its gates."""
    if recipe["accuracy"] is None:
        return "not scored"
    worst = worst_decision(gate["decision"] for score in scores(recipe) for gate in score["gates"])
    return _STATES[worst] if worst else "no gate"


def doubts(recipe: Data, concurrency: int, metric: str) -> list[str]:
    """Why this cell does not show that the recipe is ahead of the model; empty if it does."""
    point = point_at(recipe["throughput"], concurrency)
    ratio = point["ratios"][metric] if point else None
    if point is None or ratio is None or ratio["value"] is None:
        return ["the model was not measured beside it"]
    marked = marks(recipe["throughput"], point)
    found = [f"not to be trusted: {mark}" for mark in marked]
    if point["failed_requests"] and not marked:
        found.append(f"{point['failed_requests']} requests failed")
    if ratio["pairs"] < MIN_PAIRS:
        found.append(f"{ratio['pairs']} pairs are too few ({MIN_PAIRS} are needed)")
    low = ratio["interval"][0] if ratio["interval"] else None
    if low is None or low <= 1 + INDIFFERENCE:
        found.append(f"its interval is not wholly above {1 + INDIFFERENCE:.2f}")
    return found


def marks(throughput: Data, point: Data) -> list[str]:
    """Why this cell's figures are not to be trusted, whichever way they point."""
    return list(dict.fromkeys([*throughput["untrustworthy"], *point["untrustworthy"]]))


def _faster(goal: str, metric: str, words: str, competing: list[Data], load: Data | None, gated: bool) -> Data:
    """The winner for latency (TPOT at the least concurrency) or throughput (tokens/s at the greatest)."""
    if load is None:
        return _goal(goal, metric, "not measured", _unmeasured(competing))
    concurrency = load["least" if goal == "latency" else "most"]
    measured = [one for one in competing if one["name"] in load["recipes"] and _ratio(one, concurrency, metric)]
    if not measured:
        who = "No recipe that passed its gate" if gated else "No recipe"
        state = "no candidate" if gated else "not measured"
        return _goal(goal, metric, state, f"{who} was measured beside the model.")
    measured.sort(key=lambda one: _value(one, concurrency, metric), reverse=True)
    ahead = [one for one in measured if not doubts(one, concurrency, metric)]
    # Where none is shown, the nearest is the one whose worst pair is the best, not the luckiest median.
    best = ahead[0] if ahead else max(measured, key=lambda one: float(_ratio(one, concurrency, metric)["interval"][0]))
    cell = {"concurrency": concurrency, "figures": _cell(best, concurrency, metric)}
    where_ = f"in {words} at concurrency {concurrency}"
    if not ahead:
        why = "; ".join(doubts(best, concurrency, metric))
        text = f"No recipe is shown to beat {MODEL} {where_}. The nearest is {best['name']}"
        return (
            _goal(goal, metric, "not shown", f"{text} ({_range(_ratio(best, concurrency, metric))}), but {why}.") | cell
        )
    low = _ratio(best, concurrency, metric)["interval"][0]
    tied = [one["name"] for one in ahead[1:] if _ratio(one, concurrency, metric)["interval"][1] >= low]
    text = f"Ahead of {MODEL} {where_} by more than the measurement's spread."
    text += f" Not told apart from {_listed(tied)}: their intervals overlap." if tied else ""
    return _goal(goal, metric, "shown", text) | cell | {"winner": best["name"], "tied": tied}


def _unmeasured(recipes: list[Data]) -> str:
    measured = "at a concurrency, only at request rates" if any(one["throughput"] for one in recipes) else "in vLLM"
    return f"No recipe was measured {measured}: quantpress bench RECIPE."


def _goal(goal: str, metric: str, state: str, reason: str) -> Data:
    empty: Data = {"winner": None, "tied": [], "concurrency": None, "figures": None}
    return {"goal": goal, "metric": metric, "state": state, "reason": reason, **empty}


def _range(ratio: Data) -> str:
    low, high = ratio["interval"]
    return f"{ratio['value']:.2f} times as fast, {low:.2f} to {high:.2f}"


def _ratio(recipe: Data, concurrency: int, metric: str) -> Any:
    point = point_at(recipe["throughput"], concurrency)
    ratio = point["ratios"][metric] if point else None
    return ratio if ratio and ratio["value"] is not None else None


def _value(recipe: Data, concurrency: int, metric: str) -> float:
    return float(_ratio(recipe, concurrency, metric)["value"])


def _cell(recipe: Data, concurrency: int, metric: str) -> Data:
    point = point_at(recipe["throughput"], concurrency) or {}
    sides = {side: get(point, side, metric, "value") for side in ("baseline", "candidate")}
    return {"recipe": recipe["name"], **sides, "ratio": _ratio(recipe, concurrency, metric)}


def _memory(competing: list[Data], gated: bool) -> Data:
    """The smallest checkpoint; among equally small ones, the one that is nearest to the model."""
    smaller = [one for one in competing if one["size"]["checkpoint_bytes"] < one["size"]["model_bytes"]]
    if not smaller:
        why = "No recipe passed its gate." if gated and not competing else "No recipe makes the weights smaller."
        return _goal("memory", "checkpoint_bytes", "no candidate", why)
    least = min(one["size"]["checkpoint_bytes"] for one in smaller)
    alike = sorted((one for one in smaller if one["size"]["checkpoint_bytes"] <= least * (1 + SAME_SIZE)), key=_loss)
    best, tied = alike[0], [one["name"] for one in alike[1:]]
    size = best["size"]
    sides = {"baseline": size["model_bytes"], "candidate": size["checkpoint_bytes"], "ratio": None}
    text = _nearest(best, alike[1:]) if tied else "The smallest weights; bytes are counted, not estimated."
    text += "" if best["throughput"] else " It was not measured in vLLM."
    won = {"winner": best["name"], "tied": tied, "figures": {"recipe": best["name"], **sides}}
    return _goal("memory", "checkpoint_bytes", "shown", text) | won


def _nearest(best: Data, others: list[Data]) -> str:
    """Why this one among recipes of one size."""
    names = [one["name"] for one in others]
    text = f"{_listed(names)} {'is' if len(names) == 1 else 'are'} as small within {SAME_SIZE:.0%}"
    own = get(best["accuracy"], "overall", "kl")
    if get(own, "value") is None:
        return f"{text}."
    edges = [get(one["accuracy"], "overall", "kl", "interval") for one in others]
    close = own["interval"] and any(edge and edge[0] <= own["interval"][1] for edge in edges)
    return f"{text}; this one has the least KL{', though not beyond noise' if close else ' by more than noise'}."


def _kl(recipe: Data) -> float | None:
    value: float | None = get(recipe["accuracy"], "overall", "kl", "value")
    return value


def _loss(recipe: Data) -> tuple[float, float, int]:
    kl = _kl(recipe)
    recovery = get(recipe["accuracy"], "overall", "recovery", "value", default=0.0)
    return (float("inf") if kl is None else kl, -recovery, recipe["size"]["checkpoint_bytes"])


def _headline(goals: list[Data], gated: bool, competing: list[Data]) -> str:
    """One sentence: what to deploy."""
    if gated and not competing:
        return "Deploy none of these yet: no recipe passed its accuracy gate."
    wins: dict[str, list[str]] = {}
    for goal in goals:
        if goal["winner"]:
            wins.setdefault(goal["winner"], []).append(goal["goal"])
    parts = [f"{name} for {_listed(won)}" for name, won in wins.items()]
    open_goals = [goal["goal"] for goal in goals if goal["state"] == "not shown"]
    unmeasured = [goal["goal"] for goal in goals if goal["state"] in ("not measured", "no candidate")]
    text = f"Deploy {', '.join(parts)}." if parts else "No recipe is shown to be worth deploying."
    if parts and not gated:
        text = f"{text[:-1]}, if its recovery is enough for you: no accuracy gate was set."
    text += f" For {_listed(open_goals)}, no recipe is shown to beat {MODEL}." if open_goals else ""
    return text + (f" Not decided: {_listed(unmeasured)}." if unmeasured else "")


def front(recipes: list[Data], load: Data | None) -> list[str]:
    """The recipes on the Pareto front of recovery against throughput, by their point estimates."""
    known = {}
    for recipe in recipes if load else []:
        ratio = _ratio(recipe, load["most"], "output_tokens_s") if load and recipe["name"] in load["recipes"] else None
        recovery = get(recipe["accuracy"], "overall", "recovery", "value")
        if ratio and recovery is not None:
            known[recipe["name"]] = (ratio["value"], recovery)
    rivals = [*known.values(), (1.0, 1.0)] if known else []  # the model itself
    return [
        name for name, (x, y) in known.items() if not any(a >= x and b >= y and (a, b) != (x, y) for a, b in rivals)
    ]


def _engine_caveats(recipes: list[Data]) -> list[str]:
    """Recipes whose engine does not compute what was scored: their accuracy is not that of the server."""
    found = []
    for recipe in recipes:
        served = get(recipe["throughput"], "served")
        if get(served, "verdict") == truth.DIFFERS:
            lost = get(served, "sides", "candidate", "difference")
            by = "not finite" if lost is None else f"{lost:+.3f} nats a token"
            found.append(
                f"The engine does not compute what was scored of {recipe['name']} ({by}): its accuracy here is that of "
                f"transformers, not of the server. Likely cause: {get(served, 'cause')}."
            )
    return found


def _gate_caveats(recipes: list[Data], states: dict[str, str], gated: bool) -> list[str]:
    if not gated:
        return ["No accuracy gate was set, so accuracy excludes no recipe: set one with --gate 'recovery>=0.99'."]
    asked = [dict.fromkeys(gate["gate"] for result in scores(one) for gate in result["gates"]) for one in recipes]
    counts, gated_ones = Counter(gate for gates in asked for gate in gates), sum(map(bool, asked))
    named = [gate if n == gated_ones else f"{gate} (of {n} of {gated_ones} recipes)" for gate, n in counts.items()]
    parts = []
    for word in ("passed", PASSED_ELSEWHERE, "failed", "inconclusive", "no gate", "not scored"):
        names = [name for name, state in states.items() if state == word]
        if names:
            parts.append(f"{word}: {_listed(names)}")
    return [f"Accuracy gate {', '.join(named)}. {'. '.join(part[0].upper() + part[1:] for part in parts)}."]


def _accuracy_caveats(recipes: list[Data]) -> list[str]:
    scored = [recipe["accuracy"] for recipe in recipes if recipe["accuracy"]]
    if not scored:
        return ["Accuracy was not measured: quantpress evaluate RECIPE."]
    found = [
        _precision(suite, [one for one in scored if one["suite"] == suite]) for suite in _distinct(scored, "suite")
    ]
    if more := sorted({str(one["suite"]) for recipe in recipes for one in get(recipe, "other_suites", default=[])}):
        found.append(f"Also scored, shown under Accuracy and not compared here: {_listed(more)}.")
    if not any(one["noise_floor"] for one in scored):
        found.append("The noise floor was not measured (evaluate --noise-floor): small KL and flips may mean nothing.")
    return found


def _distinct(rows: list[Data], key: str) -> list[Any]:
    return list(dict.fromkeys(row[key] for row in rows))


def _precision(suite: Any, scored: list[Data]) -> str:
    """On how many documents a suite was scored, and how well that fixes recovery."""
    counts = sorted(_distinct(scored, "documents"))
    documents = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    edges = [one["overall"]["recovery"]["interval"] for one in scored]
    halves = sorted((edge[1] - edge[0]) / 2 for edge in edges if edge)
    names = [_BACKENDS.get(str(backend), str(backend)) for backend in _distinct(scored, "backend") if backend]
    text = f"Accuracy is from {documents} documents of suite {suite}"
    text += f", scored by {_listed(names)}" if names else ""
    if not halves:
        return f"{text}."
    spread = f"{halves[0]:.3f}" if halves[0] == halves[-1] else f"{halves[0]:.3f} to {halves[-1]:.3f}"
    return f"{text}: recovery is known to about ±{spread}."


def ranked(recipes: list[Data]) -> list[Data]:
    """The recipes in the order of the report: by gate, then by throughput, then by size."""
    order = ["passed", "no gate", "inconclusive", "not scored", PASSED_ELSEWHERE, "failed"]
    load = compared_load(recipes)

    def place(recipe: Data) -> tuple[int, float, int]:
        comparable = load is not None and recipe["name"] in load["recipes"]
        ratio = _ratio(recipe, load["most"], "output_tokens_s") if load and comparable else None
        return order.index(gate_state(recipe)), -ratio["value"] if ratio else 0.0, recipe["size"]["checkpoint_bytes"]

    return sorted(recipes, key=place)


def _speed_caveats(recipes: list[Data], load: Data | None) -> list[str]:
    if load is None:
        return []
    measured = [recipe for recipe in recipes if recipe["throughput"]]
    among = (
        f"{len(load['recipes'])} of {len(recipes)} recipes" if len(load["recipes"]) < len(recipes) else "every recipe"
    )
    found = [f"Speed was measured for {among} under workload {load['workload']} on {load['machine']}."]
    if not any(get(recipe["throughput"]["machine"], "gpus") or recipe["throughput"]["foreign"] for recipe in measured):
        found[0] += " What is faster on a CPU need not be on a GPU, and the other way round."
    others = [recipe["name"] for recipe in measured if recipe["name"] not in load["recipes"]]
    if others:
        found.append(f"Measured under another workload or on another machine, so not compared: {_listed(others)}.")
    more = [one for recipe in recipes for one in get(recipe, "other_workloads", default=[])]
    if more:
        names = sorted({str(get(one, "workload", "name")) for one in more})
        found.append(f"Also measured, shown under Speed and not compared here: {_listed(names)}.")
    dummy = [recipe["name"] for recipe in measured if recipe["throughput"]["weights"] == "dummy"]
    if dummy:
        found.append(f"Measured with dummy weights, which have the right shapes and no meaning: {_listed(dummy)}.")
    unmeasured = [recipe["name"] for recipe in recipes if not recipe["throughput"]]
    if unmeasured:
        found.append(f"Not measured in vLLM: {_listed(unmeasured)}.")
    return found


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
