"""Which recipe wins for what, under the accuracy gates, and how sure that is.

A recipe competes if it passed every gate, or if no recipe has a gate. It wins latency or throughput only if it is shown
to be ahead of the unquantized model by the rule of `bench` (its whole interval is above by more than the indifference).
"""

from __future__ import annotations

from collections import Counter

from quantpress.artifact.accuracy import RULES, TRANSFORMERS_ONLY
from quantpress.artifact.served import DIFFERS
from quantpress.artifact.throughput import INDIFFERENCE, MIN_PAIRS
from quantpress.report.facts.comparable import compared_load
from quantpress.report.facts.data import Cell, Decision, Goal, GoalName, Load, Point, Ratio, Recipe, Score, Speed

# Checkpoints whose sizes are this close are equal for memory; the better accuracy decides between them.
SAME_SIZE = 0.02
MODEL = "the unquantized model"
_BACKENDS = {"hf": "transformers", "vllm": "the vLLM that serves"}
PASSED_ELSEWHERE = "passed for transformers only"
Rival = tuple[Recipe, Ratio]  # with its ratio to the model under the load that decides
# Of each decision on a gate the state of a recipe whose worst it is, the worst first.
_STATES = {
    "fail": "failed",
    "inconclusive": "inconclusive",
    TRANSFORMERS_ONLY: PASSED_ELSEWHERE,
    "pass": "passed",
}


def decision_on(recipes: list[Recipe]) -> Decision:
    """The first screen of the report."""
    states = {recipe.name: gate_state(recipe.scores) for recipe in recipes}
    gated = any(state in _STATES.values() for state in states.values())
    competing = [recipe for recipe in recipes if not gated or states[recipe.name] == "passed"]
    load = compared_load(recipes)
    goals = [
        _faster("latency", "tpot_ms", "TPOT", competing, load, gated),
        _faster("throughput", "output_tokens_s", "output tokens/s", competing, load, gated),
        _memory(competing, gated),
    ]
    # What the measurement cannot say of another machine comes first: it is what a hurried reader must not miss.
    caveats = [
        *_engine_caveats(recipes),
        *_speed_caveats(recipes, load),
        *_gate_caveats(recipes, states, gated),
        *_accuracy_caveats(recipes),
    ]
    return Decision(
        gate_states=states,
        gated=gated,
        load=load,
        goals=goals,
        headline=_headline(goals, gated, competing),
        front=front(recipes, load),
        caveats=caveats,
    )


def gate_state(scores: list[Score]) -> str:
    """passed, passed for transformers only, failed, inconclusive, no gate, or not scored: the worst of all gates."""
    if not scores:
        return "not scored"
    decided = {gate.decision for score in scores for gate in score.gates}
    return next((state for decision, state in _STATES.items() if decision in decided), "no gate")


def doubts(recipe: Recipe, concurrency: int, metric: str) -> list[str]:
    """Why this cell does not show that the recipe is ahead of the model; empty if it does."""
    speed, point, ratio = recipe.throughput, recipe.at(concurrency), recipe.ratio(concurrency, metric)
    if speed is None or point is None or ratio is None:
        return ["the model was not measured beside it"]
    marked = marks(speed, point)
    why = [f"not to be trusted: {mark}" for mark in marked]
    if point.failed_requests and not marked:
        why.append(f"{point.failed_requests} requests failed")
    if ratio.pairs < MIN_PAIRS:
        why.append(f"{ratio.pairs} pairs are too few ({MIN_PAIRS} are needed)")
    if ratio.interval[0] <= 1 + INDIFFERENCE:
        why.append(f"its interval is not wholly above {1 + INDIFFERENCE:.2f}")
    return why


def marks(speed: Speed, point: Point) -> list[str]:
    """Why this cell's figures are not to be trusted, whichever way they point."""
    return list(dict.fromkeys([*speed.untrustworthy, *point.untrustworthy]))


def _faster(goal: GoalName, metric: str, words: str, competing: list[Recipe], load: Load | None, gated: bool) -> Goal:
    """The winner for latency (TPOT at the least concurrency) or throughput (tokens/s at the greatest)."""
    if load is None:
        by_rate = any(recipe.throughput for recipe in competing)
        how = "at a concurrency, only at request rates" if by_rate else "in vLLM"
        why = f"No recipe was measured {how}: quantpress bench RECIPE."
        return Goal(goal=goal, metric=metric, state="not measured", reason=why)
    concurrency = load.least if goal == "latency" else load.most
    measured = _beside_the_model(competing, load, concurrency, metric)
    if not measured and gated:
        why = "No recipe that passed its gate was measured beside the model."
        return Goal(goal=goal, metric=metric, state="no candidate", reason=why)
    if not measured:
        why = "No recipe was measured beside the model."
        return Goal(goal=goal, metric=metric, state="not measured", reason=why)
    measured.sort(key=lambda pair: pair[1].value, reverse=True)
    ahead = [(recipe, ratio) for recipe, ratio in measured if not doubts(recipe, concurrency, metric)]
    where = f"{MODEL} in {words} at concurrency {concurrency}"
    return _won(goal, metric, concurrency, where, ahead) if ahead else _open(goal, metric, concurrency, where, measured)


def _won(goal: GoalName, metric: str, concurrency: int, where: str, ahead: list[Rival]) -> Goal:
    """The fastest wins; those whose intervals overlap with its own are tied."""
    winner, ratio = ahead[0]
    tied = [recipe.name for recipe, other in ahead[1:] if other.interval[1] >= ratio.interval[0]]
    text = f"Ahead of {where} by more than the measurement's spread."
    text += f" Not told apart from {_listed(tied)}: their intervals overlap." if tied else ""
    return Goal(
        goal=goal,
        metric=metric,
        state="shown",
        reason=text,
        winner=winner.name,
        tied=tied,
        concurrency=concurrency,
        figures=_cell(winner, concurrency, metric),
    )


def _open(goal: GoalName, metric: str, concurrency: int, where: str, measured: list[Rival]) -> Goal:
    """Nobody is shown to be ahead: the nearest is the one whose worst pair is the best, not the luckiest median."""
    nearest, ratio = max(measured, key=lambda rival: rival[1].interval[0])
    low, high = ratio.interval
    text = f"No recipe is shown to beat {where}. The nearest is {nearest.name} "
    text += f"({ratio.value:.2f} times as fast, {low:.2f} to {high:.2f}), "
    text += f"but {'; '.join(doubts(nearest, concurrency, metric))}."
    cell = _cell(nearest, concurrency, metric)
    return Goal(goal=goal, metric=metric, state="not shown", reason=text, concurrency=concurrency, figures=cell)


def _beside_the_model(recipes: list[Recipe], load: Load, concurrency: int, metric: str) -> list[Rival]:
    """Of the recipes under the compared load those with a ratio, and that."""
    under_load = [recipe for recipe in recipes if recipe.name in load.recipes]
    return [(recipe, ratio) for recipe in under_load if (ratio := recipe.ratio(concurrency, metric))]


def _cell(recipe: Recipe, concurrency: int, metric: str) -> Cell:
    point = recipe.at(concurrency)
    base, own = (point.baseline, point.candidate) if point else (None, None)
    return Cell(
        recipe=recipe.name,
        baseline=base[metric].value if base else None,
        candidate=own[metric].value if own else None,
        ratio=recipe.ratio(concurrency, metric),
    )


def _memory(competing: list[Recipe], gated: bool) -> Goal:
    """The smallest checkpoint; among equally small ones, the one that is nearest to the model."""
    smaller = [recipe for recipe in competing if recipe.size.checkpoint_bytes < recipe.size.model_bytes]
    if not smaller:
        why = "No recipe passed its gate." if gated and not competing else "No recipe makes the weights smaller."
        return Goal(goal="memory", metric="checkpoint_bytes", state="no candidate", reason=why)
    least = min(recipe.size.checkpoint_bytes for recipe in smaller)
    best, *others = sorted(
        (recipe for recipe in smaller if recipe.size.checkpoint_bytes <= least * (1 + SAME_SIZE)), key=_loss
    )
    size = best.size
    text = _nearest(best, others) if others else "The smallest weights; bytes are counted, not estimated."
    text += "" if best.throughput else " It was not measured in vLLM."
    return Goal(
        goal="memory",
        metric="checkpoint_bytes",
        state="shown",
        reason=text,
        winner=best.name,
        tied=[recipe.name for recipe in others],
        figures=Cell(recipe=best.name, baseline=size.model_bytes, candidate=size.checkpoint_bytes, ratio=None),
    )


def _nearest(best: Recipe, others: list[Recipe]) -> str:
    """Why this one among recipes of one size."""
    names = [recipe.name for recipe in others]
    text = f"{_listed(names)} {'is' if len(names) == 1 else 'are'} as small within {SAME_SIZE:.0%}"
    if best.overall is None or best.overall.kl.value is None:
        return f"{text}."
    own = best.overall.kl.interval
    edges = [recipe.overall.kl.interval for recipe in others if recipe.overall]
    close = own and any(edge and edge[0] <= own[1] for edge in edges)
    return f"{text}; this one has the least KL{', though not beyond noise' if close else ' by more than noise'}."


def _loss(recipe: Recipe) -> tuple[float, float, int]:
    """Sorts the recipe that is nearest to the model first; those whose distance is not known come last."""
    kl = recipe.overall.kl.value if recipe.overall else None
    recovery = recipe.overall.recovery.value if recipe.overall else None
    return (float("inf") if kl is None else kl, -(recovery or 0.0), recipe.size.checkpoint_bytes)


def _headline(goals: list[Goal], gated: bool, competing: list[Recipe]) -> str:
    """One sentence: what to deploy."""
    if gated and not competing:
        return "Deploy none of these yet: no recipe passed its accuracy gate."
    wins: dict[str, list[str]] = {}
    for goal in goals:
        if goal.winner:
            wins.setdefault(goal.winner, []).append(goal.goal)
    parts = [f"{name} for {_listed(won)}" for name, won in wins.items()]
    open_goals: list[str] = [goal.goal for goal in goals if goal.state == "not shown"]
    unmeasured: list[str] = [goal.goal for goal in goals if goal.state in ("not measured", "no candidate")]
    text = f"Deploy {', '.join(parts)}." if parts else "No recipe is shown to be worth deploying."
    if parts and not gated:
        text = f"{text[:-1]}, if its recovery is enough for you: no accuracy gate was set."
    text += f" For {_listed(open_goals)}, no recipe is shown to beat {MODEL}." if open_goals else ""
    return text + (f" Not decided: {_listed(unmeasured)}." if unmeasured else "")


def front(recipes: list[Recipe], load: Load | None) -> list[str]:
    """The recipes on the Pareto front of recovery against throughput, by their point estimates."""
    if load is None:
        return []
    known = {}
    for recipe, ratio in _beside_the_model(recipes, load, load.most, "output_tokens_s"):
        if recipe.overall and recipe.overall.recovery.value is not None:
            known[recipe.name] = (ratio.value, recipe.overall.recovery.value)
    rivals = [*known.values(), (1.0, 1.0)]  # the model itself
    return [
        name for name, (x, y) in known.items() if not any(a >= x and b >= y and (a, b) != (x, y) for a, b in rivals)
    ]


def ranked(recipes: list[Recipe]) -> list[Recipe]:
    """The recipes in the order of the report: by gate, then by throughput, then by size."""
    order = ["passed", "no gate", "inconclusive", "not scored", PASSED_ELSEWHERE, "failed"]
    load = compared_load(recipes)
    fast = _beside_the_model(recipes, load, load.most, "output_tokens_s") if load else []
    times = {recipe.name: ratio.value for recipe, ratio in fast}
    return sorted(
        recipes,
        key=lambda recipe: (
            order.index(gate_state(recipe.scores)),
            -times.get(recipe.name, 0.0),
            recipe.size.checkpoint_bytes,
        ),
    )


def _engine_caveats(recipes: list[Recipe]) -> list[str]:
    """Recipes whose engine does not compute what was scored: their accuracy is not that of the server."""
    caveats = []
    for recipe in recipes:
        served = recipe.throughput.served if recipe.throughput else None
        if served and served.verdict == DIFFERS:
            side = served.sides.get("candidate")
            lost = side.difference if side else None
            by = "not finite" if lost is None else f"{lost:+.3f} nats a token"
            caveats.append(
                f"The engine does not compute what was scored of {recipe.name} ({by}): its accuracy here is that of "
                f"transformers, not of the server. Likely cause: {served.cause}."
            )
    return caveats


def _gate_caveats(recipes: list[Recipe], states: dict[str, str], gated: bool) -> list[str]:
    if not gated:
        return ["No accuracy gate was set, so accuracy excludes no recipe: set one with --gate 'recovery>=0.99'."]
    asked = [dict.fromkeys(gate.gate for score in recipe.scores for gate in score.gates) for recipe in recipes]
    counts, gated_ones = Counter(gate for gates in asked for gate in gates), sum(map(bool, asked))
    named = [gate if n == gated_ones else f"{gate} (of {n} of {gated_ones} recipes)" for gate, n in counts.items()]
    parts = []
    for word in ("passed", PASSED_ELSEWHERE, "failed", "inconclusive", "no gate", "not scored"):
        names = [name for name, state in states.items() if state == word]
        if names:
            parts.append(f"{word}: {_listed(names)}")
    return [f"Accuracy gate {', '.join(named)}. {'. '.join(part[0].upper() + part[1:] for part in parts)}."]


def _accuracy_caveats(recipes: list[Recipe]) -> list[str]:
    scores = [recipe.accuracy for recipe in recipes if recipe.accuracy]
    if not scores:
        return ["Accuracy was not measured: quantpress evaluate RECIPE."]
    suites = dict.fromkeys(score.suite for score in scores)
    caveats = [_precision(suite, [score for score in scores if score.suite == suite]) for suite in suites]
    if more := sorted({str(score.suite) for recipe in recipes for score in recipe.other_suites}):
        caveats.append(f"Also scored, shown under Accuracy and not compared here: {_listed(more)}.")
    caveats += _older_rules(recipes)
    if not any(score.noise_floor for score in scores):
        caveats.append(
            "The noise floor was not measured (evaluate --noise-floor): small KL and flips may mean nothing."
        )
    return caveats


def _precision(suite: str | None, scores: list[Score]) -> str:
    """On how many documents a suite was scored, and how well that fixes recovery."""
    counts = sorted({score.documents for score in scores})
    documents = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    edges = [score.overall.recovery.interval for score in scores]
    halves = sorted((edge[1] - edge[0]) / 2 for edge in edges if edge)
    backends = dict.fromkeys(score.backend for score in scores if score.backend)
    text = f"Accuracy is from {documents} documents of suite {suite}"
    text += f", scored by {_listed([_BACKENDS.get(name, name) for name in backends])}" if backends else ""
    if not halves:
        return f"{text}."
    spread = f"{halves[0]:.3f}" if halves[0] == halves[-1] else f"{halves[0]:.3f} to {halves[-1]:.3f}"
    return f"{text}: recovery is known to about ±{spread}, half of its 95% interval."


def _older_rules(recipes: list[Recipe]) -> list[str]:
    """Which recipes' gates and intervals were made by the statistics of earlier versions."""
    names = [recipe.name for recipe in recipes if any(score.rules < RULES for score in recipe.scores)]
    if not names:
        return []
    return [
        f"Intervals and gates of {', '.join(names)} are by the rules of an earlier version, which are too sure of few "
        "documents. quantpress evaluate makes them anew from the kept answers, without scoring again."
    ]


def _speed_caveats(recipes: list[Recipe], load: Load | None) -> list[str]:
    if load is None:
        return []
    measured = {recipe.name: recipe.throughput for recipe in recipes if recipe.throughput}
    several = len(load.recipes) < len(recipes)
    among = f"{len(load.recipes)} of {len(recipes)} recipes" if several else "every recipe"
    caveats = [f"Speed was measured for {among} under workload {load.workload} on {load.machine}."]
    if not any(speed.machine.gpus or speed.foreign for speed in measured.values()):
        caveats[0] += " What is faster on a CPU need not be on a GPU, and the other way round."
    lists = {
        "Measured under another workload or on another machine, so not compared": [
            name for name in measured if name not in load.recipes
        ],
        "Also measured, shown under Speed and not compared here": sorted(
            {speed.workload_name for recipe in recipes for speed in recipe.other_workloads}
        ),
        "Measured with dummy weights, which have the right shapes and no meaning": [
            name for name, speed in measured.items() if speed.weights == "dummy"
        ],
        "Not measured in vLLM": [recipe.name for recipe in recipes if recipe.name not in measured],
    }
    return caveats + [f"{what}: {_listed(names)}." for what, names in lists.items() if names]


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
