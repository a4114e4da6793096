"""What a sweep on Ray adds to its stages: the sweep on this machine, and the same commands by hand, in turns.

    make bench-sweep-overhead        (nothing else may run meanwhile)

Both begin in an empty folder, with everything in the cache that is made once, and end with a report. Prints each pair's
ratio of wall times and their median; and what of the sweep's own time no stage was running in, which does not depend on
what else the machine did: a sweep of one node runs one stage at a time.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from timing import in_turns, median_ratio, ratios, seconds

QUANTPRESS = [sys.executable, "-m", "quantpress"]
SWEEP = """
name: overhead
description: Stages of minutes.
models: [embedded]
recipes: [{recipes}]
suites: [smoke]
"""


def stages_of(file: Path, out: Path) -> list[list[str]]:
    """The commands of a sweep, in its order. Asking for them makes what is made once."""
    plan = [*QUANTPRESS, "sweep", str(file), "--out", str(out), "--plan", "--json"]
    done = subprocess.run(plan, check=True, stdout=subprocess.PIPE, text=True)
    return [stage["arguments"] for stage in json.loads(done.stdout)["stages"]]


def by_hand(stages: list[list[str]], out: Path) -> float:
    commands = [*stages, ["report", "--all", "--out", str(out)]]
    return sum(seconds([*QUANTPRESS, *command]) for command in commands)


def swept(file: Path, out: Path) -> tuple[float, float]:
    """The time of the sweep, and what of it no stage was running in."""
    whole = seconds([*QUANTPRESS, "sweep", str(file), "--out", str(out)])
    record = json.loads((out / ".sweeps" / "overhead" / "sweep.json").read_text())
    return whole, whole - sum(one["ended"] - one["started"] for one in record["outcomes"])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--recipes", nargs="+", default=["gptq-w4a16", "w8a8-dynamic"])
    args = parser.parse_args()
    took: dict[str, list[float]] = {"sweep": [], "by hand": []}
    beside = []
    for number, variant in in_turns(list(took), args.pairs):
        with tempfile.TemporaryDirectory() as folder:
            file, out = Path(folder, "sweep.yaml"), Path(folder, "out")
            file.write_text(SWEEP.format(recipes=", ".join(args.recipes)))
            stages = stages_of(file, out)
            if variant == "by hand":
                took[variant].append(by_hand(stages, out))
            else:
                whole, rest = swept(file, out)
                took[variant].append(whole)
                beside.append(rest / whole)
        print(f"round {number + 1}, {variant}: {took[variant][-1]:.1f} s", flush=True)
    print(f"sweep / by hand: {', '.join(f'{one:.3f}' for one in ratios(took['sweep'], took['by hand']))}")
    print(f"median {median_ratio(took['sweep'], took['by hand']):.3f}")
    print(f"of the sweep, beside its stages: {', '.join(f'{one:.1%}' for one in beside)}")


if __name__ == "__main__":
    main()
