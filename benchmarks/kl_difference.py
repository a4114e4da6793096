"""Whether one recipe is nearer to the model than another: the difference of their KL divergences, paired by document.

    .venv/bin/python benchmarks/kl_difference.py BASELINE FIRST SECOND      (folders of lm-eval samples)

Prints each task's and the mean KL of both against the baseline, and the mean difference with its 95% interval
(Student's t over documents, within each task).
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy

from quantpress.statistics import units
from quantpress.statistics.conventions import Interval
from quantpress_evaluate.comparison.compare import columns_of
from quantpress_evaluate.comparison.pairing import Wanted, paired
from quantpress_evaluate.comparison.runs import one_run


@dataclass(frozen=True)
class Nearness:
    """Mean KL divergence from the baseline in nats, of the first and the second: by task, over all tasks alike, and
    what is between them (first minus second)."""

    tasks: dict[str, tuple[float, float]]
    means: tuple[float, float]
    difference: float
    interval: Interval | None


def nearness(baseline: Path, first: Path, second: Path) -> Nearness:
    """Of three folders of lm-eval samples."""
    reference = one_run(baseline)
    sides = [paired(reference, one_run(path), Wanted()).scored for path in (first, second)]
    tasks, parts = {}, []
    for task in sorted(set(sides[0]) & set(sides[1])):
        one, other = (columns_of(task, side[task]).kl for side in sides)
        tasks[task] = (float(one.mean()), float(other.mean()))
        parts.append(units.in_clusters(1.0, one - other, numpy.ones(len(one)), None))
    means = (_mean([one for one, _ in tasks.values()]), _mean([other for _, other in tasks.values()]))
    return Nearness(tasks, means, units.mean(parts), units.t_interval(parts, 0.95))


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def main() -> None:
    found = nearness(*(Path(name) for name in sys.argv[1:4]))
    for task, (one, other) in found.tasks.items():
        print(f"{task}: {one:.4f} {other:.4f}")
    print(
        f"mean: {found.means[0]:.4f} {found.means[1]:.4f}; difference {found.difference:.4f}, "
        f"95% interval {found.interval}"
    )


if __name__ == "__main__":
    main()
