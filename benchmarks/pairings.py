"""Whether servers that alternate and servers side by side give the same speed-up of the same pair.

    make bench-pairings ARGS="--rounds 10"        (nothing else may run meanwhile; some 40 minutes on a CPU)

Measures a recipe's scheme on the model's shapes (dummy weights) in both pairings, with as many starts as rounds.
Prints each speed-up with its interval, and the p-value that both are the same (Welch's test on logarithms). Exit code 1
if one is shown to differ: of figures that are the same, one in twenty is.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from quantpress.artifact.speed import ratio_of
from quantpress.artifact.throughput import ALTERNATING, TOGETHER
from quantpress.model import source as models
from quantpress.model.source import described_model
from quantpress.plan.resolve import plan_of
from quantpress.recipe.loading import load_recipe
from quantpress.statistics import ratios
from quantpress_serve.bench import dummy
from quantpress_serve.bench.stage import Beforehand
from quantpress_serve.bench.subject import Sides
from quantpress_serve.workload.workload import Level, load_workload


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--recipe", default="w8a8-dynamic")
    parser.add_argument("--model", default=models.EMBEDDED)
    parser.add_argument("--workload", default="smoke")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path("artifacts"))
    args = parser.parse_args()
    model = described_model(args.model)
    plan = plan_of(load_recipe(args.recipe), model)
    load = load_workload(args.workload).model_copy(update={"rounds": args.rounds, "starts": args.rounds})
    found: dict[str, dict[Level, ratios.Estimate]] = {}
    for pairing in (TOGETHER, ALTERNATING):
        result = dummy.bench(plan, model, load, Sides(pairing=pairing), args.out / pairing, True, Beforehand())
        cells = {
            level: [cell for cell in result.cells if cell.load == (level.concurrency, level.request_rate)]
            for level in load.levels
        }
        found[pairing] = {level: ratio_of(own) for level, own in cells.items()}
        for level, one in found[pairing].items():
            print(json.dumps({"pairing": pairing, "load": level.label, "speedup": one.value, "interval": one.interval}))
    chances = {
        level.label: ratios.chance_of_no_change(found[TOGETHER][level], found[ALTERNATING][level])
        for level in load.levels
    }
    print(json.dumps({"p_no_difference": chances}))
    if any(chance is not None and chance < 0.05 for chance in chances.values()):
        sys.exit("the pairings differ by more than chance explains")


if __name__ == "__main__":
    main()
