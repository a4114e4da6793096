"""Whether one recipe is nearer to the model than another: the difference of their KL divergences, paired by document.

    .venv/bin/python benchmarks/kl_difference.py BASELINE FIRST SECOND      (folders of lm-eval samples)

Prints each task's and the mean KL of both against the baseline, and the mean difference with its 95% interval
(Student's t over documents, within each task).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy

from quantpress.statistics import units
from quantpress_evaluate.comparison.compare import columns_of
from quantpress_evaluate.comparison.pairing import Wanted, paired
from quantpress_evaluate.comparison.runs import one_run


def main() -> None:
    baseline, *others = (one_run(Path(name)) for name in sys.argv[1:4])
    sides = [paired(baseline, other, Wanted()).scored for other in others]
    tasks = []
    for task in sorted(set(sides[0]) & set(sides[1])):
        one, other = (columns_of(task, side[task]) for side in sides)
        print(f"{task}: {one.kl.mean():.4f} {other.kl.mean():.4f}")
        tasks.append((one.kl, other.kl))
    means = [sum(task[side].mean() for task in tasks) / len(tasks) for side in (0, 1)]
    parts = [units.in_clusters(1.0, one - other, numpy.ones(len(one)), None) for one, other in tasks]
    interval = units.t_interval(parts, 0.95)
    print(f"mean: {means[0]:.4f} {means[1]:.4f}; difference {units.mean(parts):.4f}, 95% interval {interval}")


if __name__ == "__main__":
    main()
