"""How often intervals of accuracy hold the truth, and gates at their limit pass, where the truth is known.

    make bench-coverage                                  # 2000 repetitions of each case
    make bench-coverage ARGS="--repetitions 200"

Each case draws documents of two models whose true figures are known, makes the interval with the functions that
`evaluate` uses, and counts. A gate passes falsely where the whole interval lies beyond a limit that is the truth
itself. Every case has its own seed.
"""

from __future__ import annotations

import argparse
import math
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy
import scipy
from scipy.special import log_softmax, softmax

from quantpress.statistics import cells, signs, units
from quantpress.statistics.cells import Cells
from quantpress.statistics.conventions import CONFIDENCE
from quantpress.statistics.units import Units
from quantpress_evaluate.comparison import figures, signal
from quantpress_evaluate.comparison.figures import Columns

Interval = tuple[float, float] | None
DRAWS = 1000  # for an interval; evaluate draws more, which only takes its limits' own noise away


@dataclass(frozen=True)
class Case:
    """`interval` makes one repetition's interval. `passes_above`: a gate asks for more than its limit (None: no gate
    is on this figure)."""

    name: str
    truth: float
    interval: Callable[[Any], Interval]
    passes_above: bool | None = None


@dataclass(frozen=True)
class Counted:
    """Shares of the repetitions."""

    covered: float
    passed: float | None


def count(case: Case, repetitions: int) -> Counted:
    """The case, so many times."""
    random = numpy.random.default_rng(sum(case.name.encode()))
    covered = passed = 0
    for _ in range(repetitions):
        interval = case.interval(random)
        if interval is None:  # no gate passes, and nothing is claimed
            covered += 1
            continue
        low, high = interval
        covered += low <= case.truth <= high
        passed += low > case.truth if case.passes_above else high < case.truth
    return Counted(covered / repetitions, None if case.passes_above is None else passed / repetitions)


def recovery(name: str, tasks: list[tuple[int, float, float]], lost: float, gained: float, base: float = 0.7) -> Case:
    """Tasks of so many documents, their weight, and how many times `lost` and `gained` happen in each."""
    total = sum(weight for _, weight, _ in tasks)
    change = sum(weight * times * (gained - lost) for _, weight, times in tasks) / total

    def interval(random: Any) -> Interval:
        drawn = []
        for documents, weight, times in tasks:
            shares = [base - times * lost, times * lost, times * gained, 1 - base - times * gained]
            drawn.append(Cells(weight, *map(float, random.multinomial(documents, shares))))
        return cells.intervals(drawn, [lambda b, o: o / b], CONFIDENCE, DRAWS)[0]

    return Case(f"recovery, {name}", 1 + change / base, interval, True)


def flips(name: str, tasks: list[tuple[int, float, float]]) -> Case:
    """Tasks of so many documents, their weight, and the share that flips."""
    truth = sum(weight * share for _, weight, share in tasks) / sum(weight for _, weight, _ in tasks)

    def interval(random: Any) -> Interval:
        drawn = [(weight, float(random.binomial(n, share)), float(n)) for n, weight, share in tasks]
        return cells.share_interval(drawn, CONFIDENCE, DRAWS)

    return Case(f"flips, {name}", truth, interval, False)


def clustered(name: str, clusters: int, each: int) -> Case:
    """Documents that share a passage: what is lost of one is lost of half of the others too."""

    def interval(random: Any) -> Interval:
        chances = random.beta(0.03, 0.97, clusters).repeat(each)  # correlation 1 / (1 + 0.03 + 0.97) = 0.5
        base = random.random(clusters * each) < 0.7
        own = base & (random.random(clusters * each) >= chances)
        columns = Columns(1.0, base=base * 1.0, own=own * 1.0, cluster=numpy.arange(clusters).repeat(each))
        return figures.figures([columns], CONFIDENCE).recovery_interval

    return Case(f"recovery, {name}", 0.97, interval, True)


def fractions(name: str, documents: int, changed: float) -> Case:
    """A metric that is a fraction of a document; of the documents that changed, a tenth is lost on average."""

    def interval(random: Any) -> Interval:
        base = random.beta(2, 2, documents)
        own = numpy.clip(base * (1 - (random.random(documents) < changed) * random.normal(0.1, 0.2, documents)), 0, 1)
        return figures.figures([Columns(1.0, base=base, own=own)], CONFIDENCE).recovery_interval

    random = numpy.random.default_rng(1)
    base, loss = random.beta(2, 2, 4_000_000), random.normal(0.1, 0.2, 4_000_000)
    kept = numpy.clip(base * (1 - loss), 0, 1).mean() / base.mean()
    return Case(f"recovery of fractions, {name}", 1 - changed * (1 - float(kept)), interval, True)


def divergences(random: Any, documents: int, by_character: bool) -> Any:
    """KL of four endings of 40 tokens each: of their sums 5% of the documents hold 80%, by character a third."""
    length = 4.2 * random.integers(25, 55, (documents, 4))  # characters
    base = -length * random.normal(0.55, 0.08, (documents, 4))
    noise = random.lognormal(-0.6, 0.5, (documents, 1)) * numpy.sqrt(length / 4.2) * 0.25
    own = base + noise * random.normal(0, 1, (documents, 4))
    if by_character:
        base, own = base / length, own / length
    p = softmax(base, axis=1)
    return (p * (log_softmax(base, axis=1) - log_softmax(own, axis=1))).sum(1)


def kl(name: str, documents: int, draw: Callable[[Any, int], Any]) -> Case:
    truth = float(draw(numpy.random.default_rng(1), 400_000).mean())

    def interval(random: Any) -> Interval:
        one = Units(1.0, draw(random, documents), numpy.ones(documents))
        return units.bootstrap_t([one], CONFIDENCE, DRAWS)

    return Case(f"KL, {name}", truth, interval, False)


def perplexity(name: str, texts: int, tasks: int = 1) -> Case:
    """Texts of 40 to 400 words, 0.05 nats a word lost on average."""

    def interval(random: Any) -> Interval:
        drawn = []
        for _ in range(tasks):
            words = random.integers(40, 400, texts) * 1.0
            lost = 0.05 * words + random.normal(0, 0.5, texts) * numpy.sqrt(words)
            drawn.append(Units(1.0, lost, words))
        return units.t_interval(drawn, CONFIDENCE)

    return Case(f"log perplexity ratio, {name}", 0.05, interval, False)


CASES = (
    *(recovery(f"{n} documents", [(n, 1, 1)], 0.02, 0.01) for n in (20, 50, 200, 1000)),
    recovery("200 documents, a tenth lost", [(200, 1, 1)], 0.1, 0.0),
    recovery("48 documents, 4% lost and gained", [(48, 1, 1)], 0.04, 0.04),
    recovery("4 tasks of 12", [(12, 1, 1)] * 4, 0.02, 0.01),
    recovery("4 tasks of 48", [(48, 1, 1)] * 4, 0.02, 0.01),
    recovery("12, 100 and 400, 15% lost in the smallest", [(12, 1, 1), (100, 1, 0), (400, 1, 0)], 0.15, 0.0),
    recovery("two of 24, weights 9 and 1, 6% lost in the first", [(24, 9, 1), (24, 1, 0)], 0.06, 0.0),
    recovery("5 tasks of 200", [(200, 1, 1)] * 5, 0.04, 0.03),
    recovery("57 subjects of 2, as one", [(114, 1, 1)], 0.03, 0.02),
    clustered("50 passages of 5, losses hang together", 50, 5),
    fractions("100 documents", 100, 1.0),
    fractions("48 documents, a third changed", 48, 1 / 3),
    flips("200 documents, 1%", [(200, 1, 0.01)]),
    flips("4 tasks of 48, 3%", [(48, 1, 0.03)] * 4),
    flips("two of 24, weights 9 and 1, 8% in the first", [(24, 9, 0.08), (24, 1, 0.0)]),
    *(kl(f"acc_norm, {n} documents", n, lambda random, n: divergences(random, n, True)) for n in (48, 200)),
    kl("exponential, 48 documents", 48, lambda random, n: random.gamma(1.0, 0.1, n)),
    kl("heavy (5% hold 44%), 200 documents", 200, lambda random, n: random.lognormal(0, 1.5, n)),
    *(perplexity(f"{n} texts", n) for n in (2, 5, 20)),
    perplexity("3 tasks of 5 texts", 5, tasks=3),
)


def kept_recovery(random: Any, documents: int = 200, accuracy: float = 0.55) -> float | None:
    """The recovery of a checkpoint as good as its model, on the documents that count; None where none do."""
    base, own = random.random((2, documents)) < accuracy
    own = numpy.where(random.random(documents) < 0.9, base, own)  # a tenth is answered anew
    columns = Columns(1.0, base=base * 1.0, own=own * 1.0, guess=0.5)
    counted = signal.counted(columns, random.permutation(documents) % signal.QUARTERS)
    return None if counted is None else float(counted.own.mean() / counted.base.mean())


def called_different(random: Any) -> bool:
    """Whether the sign-flip test calls two equal models different, over tasks of other weights, at 5%."""
    changes = []
    for documents, weight in ((48, 3.0), (200, 1.0), (100, 1.0)):
        lost, gained, _ = random.multinomial(documents, [0.05, 0.05, 0.9])
        changes.append(numpy.concatenate([numpy.full(lost, -weight), numpy.full(gained, weight)]) / documents)
    return signs.sign_flip(changes, 2000) < 0.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=2000)
    repetitions = parser.parse_args().repetitions
    print(f"{repetitions} repetitions; Python {platform.python_version()}, numpy {numpy.__version__}, ", end="")
    print(
        f"scipy {scipy.__version__}\n\n| figure | truth | coverage | passes a gate at the truth |\n|---|---:|---:|---:|"
    )
    for case in CASES:
        found = count(case, repetitions)
        passed = "" if found.passed is None else f"{found.passed:.1%}"
        print(f"| {case.name} | {case.truth:.4g} | {found.covered:.1%} | {passed} |", flush=True)
    random = numpy.random.default_rng(7)
    kept = [value for _ in range(repetitions) if (value := kept_recovery(random)) is not None]
    print(f"\nMean recovery of what counts, the model 55% right of two choices, truth 1: {sum(kept) / len(kept):.4f}")
    wrong = sum(called_different(random) for _ in range(repetitions)) / repetitions
    print(f"Equal models called different at 5%, tasks of other weights: {wrong:.1%}")
    errors = math.sqrt(0.95 * 0.05 / repetitions)
    print(f"A coverage of 95% is known to {errors:.1%} (one standard error).", file=sys.stderr)


if __name__ == "__main__":
    main()
