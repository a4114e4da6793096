"""What quantpress adds to llmcompressor: whole processes, in turns, same settings, same weights out.

    make benchmark-overhead        (nothing else may run meanwhile)

For each recipe: `quantpress quantize` and benchmarks/plain_oneshot.py, A B A B; prints each pair's ratio of wall times
and their median, and whether the two wrote the same tensors.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from quantpress.model import source as models
from quantpress.model.source import find_model

QUIET = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
SETTINGS = {"rtn-w4a16": [], "gptq-w4a16": ["--set", "calibration.samples=16"]}


def seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(
        command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, **QUIET}
    )
    return time.perf_counter() - started


def tensors(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()[:12]


def pair(recipe: str, model: models.Model, work: Path, number: int) -> dict[str, object]:
    ours, plain = work / f"ours-{number}", work / f"plain-{number}"
    script = str(Path(__file__).with_name("plain_oneshot.py"))
    commands = {
        "quantpress": [sys.executable, "-m", "quantpress", "quantize", recipe, "--out", str(ours), *SETTINGS[recipe]],
        "plain": [sys.executable, script, recipe, str(model.path), str(plain)],
    }
    order = list(commands) if number % 2 == 0 else list(reversed(commands))
    took = {name: seconds(commands[name]) for name in order}
    same = tensors(ours / model.name / recipe / "checkpoint") == tensors(plain)
    return {**took, "ratio": took["quantpress"] / took["plain"], "same_tensors": same}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("recipes", nargs="*", default=list(SETTINGS))
    args = parser.parse_args()
    model = find_model(models.EMBEDDED)
    for recipe in args.recipes:
        with tempfile.TemporaryDirectory() as work:
            rows = [pair(recipe, model, Path(work), number) for number in range(args.pairs)]
        ratio = statistics.median(float(str(row["ratio"])) for row in rows)
        print(json.dumps({"recipe": recipe, "median_ratio": round(ratio, 4), "pairs": rows}, indent=2), flush=True)


if __name__ == "__main__":
    main()
