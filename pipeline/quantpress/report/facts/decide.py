"""Which recipe wins for what, under the accuracy gates, and how sure that is.

A recipe competes if it passed every gate, or if no recipe has a gate. It wins latency or throughput only if it is shown
to be ahead of the unquantized model (quantpress.report.facts.winners).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from quantpress.artifact.accuracy import RULES
from quantpress.artifact.manifest import Adopted
from quantpress.artifact.served import DIFFERS, Served
from quantpress.errors import enumerated
from quantpress.report.facts import beaten
from quantpress.report.facts.comparable import compared_load, compared_suite, is_on_suite, is_under_but_for_pairing
from quantpress.report.facts.data import PAIRINGS, Cell, Decision, Goal, Load, Online, Point, Recipe, Score, Speed
from quantpress.report.facts.gates import GATED, ORDER, PASSED_ALONE, PASSED_ELSEWHERE, gate_states
from quantpress.report.facts.winners import MODEL, beside_the_model, fastest

# Checkpoints whose sizes are this close are equal for memory; the better accuracy decides between them.
SAME_SIZE = 0.02
_BACKENDS = {"hf": "transformers", "vllm": "the vLLM that serves"}


def decision_on(recipes: list[Recipe], online: Sequence[Online] = ()) -> Decision:
    """The first screen of the report. What costs nothing to make competes for nothing, but is held against who wins."""
    states = gate_states(recipes)
    gated = any(state in GATED for state in states.values())
    competing = [recipe for recipe in recipes if not gated or states[recipe.name] == "passed"]
    load = compared_load(recipes)
    goals = [
        fastest("latency", competing, load, gated),
        fastest("throughput", competing, load, gated),
        _memory(competing, gated),
    ]
    # What the measurement cannot say of another machine comes first: it is what a hurried reader must not miss.
    caveats = [
        *_adopted_caveats(recipes),
        *_engine_caveats(recipes),
        *_speed_caveats(recipes, load),
        *beaten.caveats(online, goals, load),
        *_several_caveats(recipes, states),
        *_gate_caveats(recipes, states, gated),
        *_accuracy_caveats(recipes),
    ]
    return Decision(
        gate_states=states,
        gated=gated,
        load=load,
        goals=goals,
        headline=_headline(goals, states, competing, gated),
        front=front(recipes, load),
        caveats=caveats,
    )


def marks(speed: Speed, point: Point) -> list[str]:
    """Why this cell's figures are not to be trusted, whichever way they point."""
    return list(dict.fromkeys([*speed.untrustworthy, *point.untrustworthy]))


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
    text = f"{enumerated(names)} {'is' if len(names) == 1 else 'are'} as small within {SAME_SIZE:.0%}"
    if best.overall is None or best.overall.kl.value is None:
        return f"{text}."
    known = {recipe.name: edges for recipe in others if (edges := _kl_interval(recipe, _suite(best)))}
    own = _kl_interval(best, _suite(best))
    if not known or not own:
        return f"{text}, and whose KL is less is not known."
    close = any(edges[0] <= own[1] for edges in known.values())
    text = f"{text}; this one has the least KL{', though not beyond noise' if close else ' by more than noise'}"
    unknown = [name for name in names if name not in known]
    return f"{text} (that of {enumerated(unknown)} is not known on this suite)." if unknown else f"{text}."


def _suite(recipe: Recipe) -> str | None:
    return recipe.accuracy.suite if recipe.accuracy else None


def _kl_interval(recipe: Recipe, suite: str | None) -> tuple[float, float] | None:
    """That of the recipe's KL on this suite."""
    return recipe.overall.kl.interval if recipe.overall and _suite(recipe) == suite else None


def _loss(recipe: Recipe) -> tuple[float, float, int]:
    """Sorts the recipe that is nearest to the model first; those whose distance is not known come last."""
    kl = recipe.overall.kl.value if recipe.overall else None
    recovery = recipe.overall.recovery.value if recipe.overall else None
    return (float("inf") if kl is None else kl, -(recovery or 0.0), recipe.size.checkpoint_bytes)


def _headline(goals: list[Goal], states: dict[str, str], competing: list[Recipe], gated: bool) -> str:
    """One sentence: what to deploy."""
    if gated and not competing:
        alone = " by more than luck makes of several" if PASSED_ALONE in states.values() else ""
        return f"Deploy none of these yet: no recipe passed its accuracy gate{alone}."
    wins: dict[str, list[str]] = {}
    for goal in goals:
        if goal.winner:
            wins.setdefault(goal.winner, []).append(goal.goal)
    parts = [f"{name} for {enumerated(won)}" for name, won in wins.items()]
    open_goals: list[str] = [goal.goal for goal in goals if goal.state == "not shown"]
    unmeasured: list[str] = [goal.goal for goal in goals if goal.state in ("not measured", "no candidate")]
    text = f"Deploy {', '.join(parts)}." if parts else "No recipe is shown to be worth deploying."
    if parts and not gated:
        text = f"{text[:-1]}, if its recovery is enough for you: no accuracy gate was set."
    text += f" For {enumerated(open_goals)}, no recipe is shown to beat {MODEL}." if open_goals else ""
    return text + (f" Not decided: {enumerated(unmeasured)}." if unmeasured else "")


def front(recipes: list[Recipe], load: Load | None) -> list[str]:
    """The recipes on the Pareto front of recovery on the compared suite against throughput, by their point
    estimates."""
    if load is None:
        return []
    known, suite = {}, compared_suite(recipes)
    for recipe, ratio in beside_the_model(recipes, load, load.most, "output_tokens_s"):
        if is_on_suite(recipe, suite) and recipe.overall and recipe.overall.recovery.value is not None:
            known[recipe.name] = (ratio.value, recipe.overall.recovery.value)
    rivals = [*known.values(), (1.0, 1.0)]  # the model itself
    return [
        name for name, (x, y) in known.items() if not any(a >= x and b >= y and (a, b) != (x, y) for a, b in rivals)
    ]


def ranked(recipes: list[Recipe]) -> list[Recipe]:
    """The recipes in the order of the report: by gate, then by throughput, then by size."""
    states, load = gate_states(recipes), compared_load(recipes)
    fast = beside_the_model(recipes, load, load.most, "output_tokens_s") if load else []
    times = {recipe.name: ratio.value for recipe, ratio in fast}
    return sorted(
        recipes,
        key=lambda recipe: (
            ORDER.index(states[recipe.name]),
            -times.get(recipe.name, 0.0),
            recipe.size.checkpoint_bytes,
        ),
    )


def _adopted_caveats(recipes: list[Recipe]) -> list[str]:
    """Which of them nobody here made."""
    return [_elsewhere(recipe.name, recipe.adopted) for recipe in recipes if recipe.adopted]


def _elsewhere(name: str, adopted: Adopted) -> str:
    text = f"{name} was made elsewhere ({adopted.format}; {adopted.made_by}): how, and on which data, is not known."
    if adopted.dequantized is None or adopted.stored_bytes is None:
        return text
    return (
        f"{text} It was adopted as the {adopted.dequantized} numbers that its weights are: size and speed are not "
        f"those of its format, in which it has {adopted.stored_bytes / 1e6:.0f} MB."
    )


def _engine_caveats(recipes: list[Recipe]) -> list[str]:
    """Recipes of which the engine and transformers do not compute the same; and those that other kernels served than
    were planned."""
    caveats = []
    for recipe in recipes:
        served = recipe.throughput.served if recipe.throughput else None
        if served and served.verdict == DIFFERS:
            caveats.append(_differs(recipe, served))
        if others := [use.sentence for use in recipe.throughput.kernels if use.others] if recipe.throughput else []:
            caveats.append(
                f"{recipe.name} was served by another kernel than planned ({'; '.join(others)}): its speed is that "
                "kernel's."
            )
    return caveats


def _differs(recipe: Recipe, served: Served) -> str:
    """Whose accuracy the report shows, where the engine does not compute what transformers does."""
    side = served.sides.get("candidate")
    lost = side.difference if side else None
    by = "not finite" if lost is None else f"{lost:+.3f} nats a token"
    if recipe.accuracy and recipe.accuracy.backend == "vllm":
        said = (
            f"Transformers computes {recipe.name} otherwise than the vLLM that serves it ({by}): its scores here are "
            "by that vLLM, and transformers would give others."
        )
    else:
        said = (
            f"The engine does not compute what was scored of {recipe.name} ({by}): its accuracy here is that of "
            "transformers, not of the server."
        )
    return f"{said} Likely cause: {served.cause}."


def _several_caveats(recipes: list[Recipe], states: dict[str, str]) -> list[str]:
    """What several recipes cost each of them."""
    if len(recipes) == 1:
        return []
    rule = (
        f"With {len(recipes)} recipes, one may look good by luck, so each must clear a higher bar than it would alone "
        "(Holm's rule). By luck alone a recipe wins speed in at most one report in 40, and passes a gate in as few."
    )
    alone = [name for name, state in states.items() if state == PASSED_ALONE]
    if not alone:
        return [rule]
    clears = "clears" if len(alone) == 1 else "clear"
    named = f"{enumerated(alone)} {clears}"
    return [f"{rule} {named} the usual bar of the gate, not this one: score more documents to decide."]


def _gate_caveats(recipes: list[Recipe], states: dict[str, str], gated: bool) -> list[str]:
    if not gated:
        return ["No accuracy gate was set, so accuracy excludes no recipe: set one with --gate 'recovery>=0.99'."]
    asked = [dict.fromkeys(gate.gate for score in recipe.scores for gate in score.gates) for recipe in recipes]
    counts, gated_ones = Counter(gate for gates in asked for gate in gates), sum(map(bool, asked))
    named = [gate if n == gated_ones else f"{gate} (of {n} of {gated_ones} recipes)" for gate, n in counts.items()]
    parts = []
    for word in ("passed", PASSED_ALONE, PASSED_ELSEWHERE, "failed", "inconclusive", "no gate", "not scored"):
        names = [name for name, state in states.items() if state == word]
        if names:
            parts.append(f"{word}: {enumerated(names)}")
    return [f"Accuracy gate {', '.join(named)}. {'. '.join(part[0].upper() + part[1:] for part in parts)}."]


def _accuracy_caveats(recipes: list[Recipe]) -> list[str]:
    scores = [recipe.accuracy for recipe in recipes if recipe.accuracy]
    if not scores:
        return ["Accuracy was not measured: quantpress evaluate RECIPE."]
    suites = dict.fromkeys(score.suite for score in scores)
    caveats = [_precision(suite, [score for score in scores if score.suite == suite]) for suite in suites]
    if more := sorted({str(score.suite) for recipe in recipes for score in recipe.other_suites}):
        caveats.append(f"Also scored, shown under Accuracy and not compared here: {enumerated(more)}.")
    suite = compared_suite(recipes)
    if elsewhere := [recipe.name for recipe in recipes if recipe.accuracy and not is_on_suite(recipe, suite)]:
        caveats.append(f"Scored on another suite than {suite}, so not compared in accuracy: {enumerated(elsewhere)}.")
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
    text += f", scored by {enumerated([_BACKENDS.get(name, name) for name in backends])}" if backends else ""
    if not halves:
        return f"{text}."
    least, most = f"{halves[0]:.3f}", f"{halves[-1]:.3f}"
    if least == most:
        return f"{text}: recovery may be off by {least} either way (its 95% interval)."
    return f"{text}: recovery may be off by {least} to {most} either way, depending on the recipe (95% intervals)."


def _older_rules(recipes: list[Recipe]) -> list[str]:
    """Which recipes' gates and intervals were made by the statistics of earlier versions."""
    names = [recipe.name for recipe in recipes if any(score.rules < RULES for score in recipe.scores)]
    if not names:
        return []
    whose = "all recipes" if 1 < len(names) == len(recipes) else enumerated(names)
    return [
        f"Intervals and gates of {whose} are by older rules, which claim too much from few documents or take too much "
        "for a guess. quantpress evaluate redoes them from the saved answers, without scoring again."
    ]


def _speed_caveats(recipes: list[Recipe], load: Load | None) -> list[str]:
    if load is None:
        return []
    measured = {recipe.name: recipe.throughput for recipe in recipes if recipe.throughput}
    several = len(load.recipes) < len(recipes)
    among = f"{len(load.recipes)} of {len(recipes)} recipes" if several else "every recipe"
    how = PAIRINGS.get(load.pairing, load.pairing)
    caveats = [f"Speed was measured for {among} under workload {load.workload} on {load.machine}, {how}."]
    if not any(speed.machine.gpus or speed.foreign for speed in measured.values()):
        caveats[0] += " What is faster on a CPU may not be faster on a GPU."
    otherwise = {name: speed for name, speed in measured.items() if name not in load.recipes}
    paired = [name for name, speed in otherwise.items() if _differs_in_pairing(speed, load)]
    set_otherwise = [
        name
        for name, speed in otherwise.items()
        if speed.workload_name == load.workload and speed.conditions != load.conditions
    ]
    lists = {
        f"Measured in another pairing, so not compared (bench --pairing {load.pairing} makes them comparable)": paired,
        "Measured under another workload or on another machine, so not compared": [
            name for name in otherwise if name not in paired and name not in set_otherwise
        ],
        f"Measured under a workload called {load.workload} too that has other settings, of its engine perhaps, so not "
        "compared": set_otherwise,
        "Also measured, shown under Speed and not compared here": sorted(
            {speed.workload_name for recipe in recipes for speed in recipe.other_workloads}
        ),
        "Measured with dummy weights, which have the right shapes and no meaning": [
            name for name, speed in measured.items() if speed.weights == "dummy"
        ],
        "Not measured in vLLM": [recipe.name for recipe in recipes if recipe.name not in measured],
    }
    return caveats + [f"{what}: {enumerated(names)}." for what, names in lists.items() if names]


def _differs_in_pairing(speed: Speed, load: Load) -> bool:
    """Whether nothing but the pairing keeps a measurement from being compared."""
    return is_under_but_for_pairing(speed, load) and speed.pairing != load.pairing
