"""What quantpress adds to llmcompressor: whole processes, in turns, same settings, same weights out.

    make bench-quantize-overhead        (nothing else may run meanwhile)

For each recipe: `quantpress quantize` and benchmarks/plain_oneshot.py, A B A B; prints each pair's ratio of wall times
and their median, and whether the two wrote the same tensors.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
from pathlib import Path

from quantpress.model import source as models
from quantpress.model.source import find_model
from timing import in_turns, median_ratio, ratios, seconds

SETTINGS = {"rtn-w4a16": [], "gptq-w4a16": ["--set", "calibration.samples=16"]}


def tensors(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()[:12]


def command_of(variant: str, recipe: str, model: models.Model, out: Path) -> tuple[list[str], Path]:
    """The command that makes a checkpoint, and where it makes it."""
    if variant == "plain":
        script = str(Path(__file__).with_name("plain_oneshot.py"))
        return [sys.executable, script, recipe, str(model.path), str(out)], out
    command = [sys.executable, "-m", "quantpress", "quantize", recipe, "--out", str(out), *SETTINGS[recipe]]
    return command, out / model.name / recipe / "checkpoint"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("recipes", nargs="*", default=list(SETTINGS))
    args = parser.parse_args()
    model = find_model(models.EMBEDDED)
    for recipe in args.recipes:
        took: dict[str, list[float]] = {"quantpress": [], "plain": []}
        made: dict[int, set[str]] = {}
        with tempfile.TemporaryDirectory() as work:
            for number, variant in in_turns(list(took), args.pairs):
                command, checkpoint = command_of(variant, recipe, model, Path(work) / f"{variant}-{number}")
                took[variant].append(seconds(command))
                made.setdefault(number, set()).add(tensors(checkpoint))
        shown = {"recipe": recipe, "median_ratio": round(median_ratio(took["quantpress"], took["plain"]), 4), **took}
        shown |= {"ratios": ratios(took["quantpress"], took["plain"])}
        print(json.dumps(shown | {"same_tensors": [len(files) == 1 for files in made.values()]}, indent=2), flush=True)


if __name__ == "__main__":
    main()
