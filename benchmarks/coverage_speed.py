"""Whether intervals and verdicts of speed hold what they say: simulated benches of known truth, judged as real ones.

    make bench-coverage-speed ARGS="--repetitions 4000 --seed 1"        (CPU only, no model; one minute)

A simulated server differs from start to start and from round to round (normal on the logarithm, the standard deviations
are in the tables), and the side that goes first may be ahead. Prints Markdown: coverage and verdicts by design, then
what a report makes of several recipes.
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import NormalDist

from quantpress.report.facts import gates, winners
from quantpress.report.facts.data import Gate, Load, Point, Ratio, Recipe, Score, Speed
from quantpress.report.views.markdown import table
from quantpress.statistics import ratios, several

RECIPES = 12


@dataclass(frozen=True)
class Design:
    """How a bench is made, and the world that it is made in; all standard deviations are of one side's log speed."""

    starts: int = 4
    rounds: int = 4
    start_sd: float = 0.03
    round_sd: float = 0.02
    first: float = 0.0  # what going first is worth

    def bench(self, chance: random.Random, truth: float) -> list[list[float]]:
        """Ratios of pairs by start."""
        share = self.rounds // self.starts
        by_start = []
        for start in range(self.starts):
            offset = _between(chance, self.start_sd)
            order = [1 if number % 2 == 0 else -1 for number in range(start * share, (start + 1) * share)]
            logs = [offset + _between(chance, self.round_sd) + self.first * sign for sign in order]
            by_start.append([truth * math.exp(log) for log in logs])
        return by_start

    @property
    def words(self) -> str:
        starts = f"{self.starts} start{'s' * (self.starts > 1)}"
        return f"{self.rounds} rounds in {starts}" if self.rounds != self.starts else f"{starts}, a round each"


def _between(chance: random.Random, deviation: float) -> float:
    """What chance makes of the difference of two sides."""
    return chance.gauss(0, deviation) - chance.gauss(0, deviation)


def judged(design: Design, chance: random.Random, truth: float) -> ratios.Estimate:
    return ratios.estimate(design.bench(chance, truth))


def as_before(design: Design, chance: random.Random, truth: float) -> tuple[float, float]:
    """The interval of latencies before: the least and the greatest pair."""
    (pairs,) = design.bench(chance, truth)
    return min(pairs), max(pairs)


def by_design(repetitions: int, chance: random.Random) -> Iterator[list[str]]:
    worlds: list[dict[str, float]] = [
        {"start_sd": 0.0},
        {},
        {"first": 0.04},
        {"round_sd": 0.08},
        {"start_sd": 0.05},
    ]
    for starts, rounds in ((4, 4), (4, 8), (6, 6), (1, 4), (1, 8)):
        for world in worlds:
            design = Design(starts=starts, rounds=rounds, **world)
            equal = [judged(design, chance, 1.0) for _ in range(repetitions)]
            better = [judged(design, chance, 1.15) for _ in range(repetitions)]
            said = [ratios.verdict(found) for found in equal]
            intervals = [found.interval for found in equal if found.interval]
            shares = [
                sum(low <= 1 <= high for low, high in intervals) / repetitions,
                said.count("faster") / repetitions,
                said.count("slower") / repetitions,
                sum(ratios.verdict(found) == "faster" for found in better) / repetitions,
            ]
            yield [*_world(design), *map("{:.1%}".format, shares)]
    old = Design(starts=1, rounds=3)
    ranges = [as_before(old, chance, 1.0) for _ in range(repetitions)]
    better_ranges = [as_before(old, chance, 1.15) for _ in range(repetitions)]
    shares = [
        sum(low <= 1 <= high for low, high in ranges) / repetitions,
        sum(low > 1 + ratios.INDIFFERENCE for low, _ in ranges) / repetitions,
        sum(high < 1 - ratios.INDIFFERENCE for _, high in ranges) / repetitions,
        sum(low > 1 + ratios.INDIFFERENCE for low, _ in better_ranges) / repetitions,
    ]
    yield ["as it was: least and greatest of 3 pairs", *_world(old)[1:], *map("{:.1%}".format, shares)]


def _world(design: Design) -> list[str]:
    return [design.words, *(f"{deviation:.0%}" for deviation in (design.start_sd, design.round_sd, design.first))]


def recipe(name: str, found: ratios.Estimate) -> Recipe:
    """As much of a recipe as the choice of a winner looks at."""
    ratios_of = {"output_tokens_s": Ratio.of(found)}
    point = Point.model_construct(concurrency=1, ratios=ratios_of, baseline=None, candidate=None)
    return Recipe.model_construct(name=name, throughput=Speed.model_construct(points=[point]))


def named(design: Design, chance: random.Random, truths: list[float]) -> tuple[str | None, list[str]]:
    """The winner among recipes of these true ratios, and who is named beside it."""
    recipes = [recipe(str(number), judged(design, chance, truth)) for number, truth in enumerate(truths)]
    load = Load(workload="w", machine="m", recipes=[one.name for one in recipes], least=1, most=1)
    goal = winners.fastest("throughput", recipes, load, gated=False)
    return goal.winner, goal.tied


def unnamed(design: Design, chance: random.Random, truths: list[float]) -> bool:
    """Whether the truly fastest (the last) is neither the winner nor named."""
    winner, tied = named(design, chance, truths)
    return winner is not None and str(len(truths) - 1) not in (winner, *tied)


def states_at_the_limit(chance: random.Random) -> set[str]:
    """What a report says of recipes whose true recovery is the gate's limit, known to a standard error of 0.005."""
    half = 0.005 * NormalDist().inv_cdf(0.975)
    recipes = []
    for number in range(RECIPES):
        value = chance.gauss(0.99, 0.005)
        decision = "pass" if value - half >= 0.99 else "inconclusive"
        about = {"value": value, "interval": (value - half, value + half), "confidence": 0.95, "documents": None}
        gate = Gate.model_validate({"gate": "recovery>=0.99", "decision": decision, **about})
        score = Score.model_construct(gates=[gate])
        recipes.append(Recipe.model_construct(name=str(number), accuracy=score, other_suites=[]))
    return set(gates.gate_states(recipes).values())


def moved(design: Design, chance: random.Random) -> list[bool]:
    """Of the figures of two reports on unchanged recipes, which are called moved."""
    pairs = [[judged(design, chance, 1.1) for _ in range(2)] for _ in range(RECIPES)]
    return several.changed([ratios.chance_of_no_change(old, new) or 0.0 for old, new in pairs])


def of_reports(repetitions: int, chance: random.Random) -> Iterator[list[str]]:
    nearly = [1.05 + 0.1 * number / (RECIPES - 1) for number in range(RECIPES - 1)]
    for design in (Design(), Design(starts=1)):
        cases: dict[str, Callable[[Design], bool]] = {
            f"one of {RECIPES} equal recipes wins": lambda one: named(one, chance, [1.0] * RECIPES)[0] is not None,
            f"one of {RECIPES} recipes of a true 1.03 wins": lambda one: (
                named(one, chance, [1.03] * RECIPES)[0] is not None
            ),
            "a recipe of 1.22 is unnamed beside one of 1.2 that wins": lambda one: unnamed(one, chance, [1.2, 1.22]),
            f"the best of {RECIPES} (1.05 to 1.15, and 1.17) is unnamed": lambda one: unnamed(
                one, chance, [*nearly, 1.17]
            ),
            f"one of {RECIPES} unchanged figures is called moved": lambda one: any(moved(one, chance)),
        }
        for what, happens in cases.items():
            share = sum(happens(design) for _ in range(repetitions)) / repetitions
            yield [what, design.words, f"{share:.1%}"]
    limits = [states_at_the_limit(chance) for _ in range(repetitions)]
    alone = sum(bool(states & {"passed", gates.PASSED_ALONE}) for states in limits) / repetitions
    yield [f"one of {RECIPES} recipes at a gate's limit passes on its own", "", f"{alone:.1%}"]
    together = sum("passed" in states for states in limits) / repetitions
    yield [f"one of {RECIPES} recipes at a gate's limit has passed, says the report", "", f"{together:.1%}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    chance = random.Random(args.seed)
    header = ["design", "starts differ by", "rounds by", "first gains", "covered", "equal: faster", "equal: slower"]
    print(table([*header, "1.15: faster"], list(by_design(args.repetitions, chance))), end="\n\n")
    print(table(["what happens", "design", "how often"], list(of_reports(args.repetitions, chance)), words=2))


if __name__ == "__main__":
    main()
