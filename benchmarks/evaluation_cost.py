"""What scoring costs: quantpress against separate lm-eval runs, and transformers against vLLM.

    make bench-evaluation-cost ARGS="--data FOLDER --limit 20"       (nothing else may run meanwhile)

Whole commands in turns, `--rounds` times: lm-eval by hand on model and checkpoint, and `quantpress evaluate` with
nothing scored before, with the model scored before, and on vLLM with nothing scored before. Six recipes
by hand are six pairs of lm-eval runs; quantpress scores the model once.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from timing import seconds

RECIPE = "w8a8-dynamic"
RECIPES = 6


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", required=True, help="folder of <task>.jsonl")
    parser.add_argument("--limit", default="20")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--without-vllm", action="store_true", help="transformers alone: half of the time")
    options = parser.parse_args()
    scripts = Path(sys.executable).parent
    times: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        own = [str(scripts / "quantpress"), "evaluate", RECIPE, "--suite", "commonsense", "--data", options.data]
        own += ["--limit", options.limit, "--out", str(out), "-q"]
        seconds([*own, "--limit", "1"])  # quantizes, and checks the tasks
        artifact, baseline = (next(out.glob(f"*/{name}")) for name in (RECIPE, "baseline"))
        for _ in range(options.rounds):
            for scores in (artifact / "scores", baseline / "scores"):
                shutil.rmtree(scores, ignore_errors=True)
            times.setdefault("quantpress, model and recipe", []).append(seconds(own))
            commands = json.loads((artifact / "accuracy.json").read_text())["runs"]
            shutil.rmtree(artifact / "scores")
            times.setdefault("quantpress, a further recipe", []).append(seconds(own))
            for side in ("baseline", "candidate"):
                arguments = _plain(commands[side]["command"], Path(folder) / "by-hand")
                times.setdefault(f"lm-eval by hand, {side}", []).append(seconds(arguments))
            if not options.without_vllm:
                vllm = [*own, "--backend", "vllm"]
                times.setdefault("quantpress on vLLM, model and recipe", []).append(seconds(vllm))
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, values in times.items():
        print(f"{name}: {medians[name]:.1f} s ({', '.join(f'{one:.1f}' for one in values)})")
    whole = medians["quantpress, model and recipe"] + (RECIPES - 1) * medians["quantpress, a further recipe"]
    apart = RECIPES * (medians["lm-eval by hand, baseline"] + medians["lm-eval by hand, candidate"])
    print(f"{RECIPES} recipes: {whole:.0f} s against {apart:.0f} s, ratio {whole / apart:.2f}")


def _plain(loop: str, output: Path) -> list[str]:
    """One lm-eval run over all tasks, as a person would start it, from the loop over tasks that a score records."""
    names = loop.removeprefix("for task in ").partition(";")[0].replace(" ", ",")
    command = loop.partition("do ")[2].removesuffix("; done").replace("$task", names).replace("OUT", str(output))
    return ["bash", "-c", f"{Path(sys.executable).parent}/{command}"]


if __name__ == "__main__":
    main()
