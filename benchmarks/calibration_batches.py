"""Packed and batched calibration against a plain llmcompressor script: whole processes, in turns, on the same tokens.

    make bench-calibration-batches ARGS="--rounds 2 gptq-w4a16"        (nothing else may run meanwhile)

`plain` feeds the documents one by one, as they are (benchmarks/plain_documents.py); `packed-N` is `quantpress quantize`
with batch_size N. For each: seconds, ratio to `plain` of the same round, and how well the checkpoint reproduces the
model: relative squared error of every decoder layer's output, given the unquantized model's input to that layer, on
documents that no calibration saw; median and greatest over the layers.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from quantpress.model import source as models
from quantpress.model.source import find_model
from timing import in_turns, ratios, seconds

HERE = Path(__file__).parent


def command_of(variant: str, recipe: str, samples: int, model: models.Model, out: Path) -> tuple[list[str], Path]:
    """The command that makes a checkpoint, and where it makes it."""
    if variant == "plain":
        script = str(HERE / "plain_documents.py")
        return [sys.executable, script, recipe, str(samples), str(model.path), str(out)], out
    settings = [f"calibration.samples={samples}", f"calibration.batch_size={variant.removeprefix('packed-')}"]
    command = [sys.executable, "-m", "quantpress", "quantize", recipe, "--out", str(out)]
    return [
        *command,
        *(part for item in settings for part in ("--set", item)),
    ], out / model.name / recipe / "checkpoint"


def reconstruction(model_folder: Path, checkpoint: Path) -> dict[str, float]:
    script = str(HERE / "reconstruction_error.py")
    done = subprocess.run(
        [sys.executable, script, str(model_folder), str(checkpoint)], check=True, capture_output=True, text=True
    )
    errors = json.loads(done.stdout)
    return {"median": statistics.median(errors), "greatest": max(errors)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("recipe", nargs="?", default="gptq-w4a16")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--samples", type=int, default=16, help="sequences of 512 tokens")
    parser.add_argument("--variants", nargs="+", default=["plain", "packed-1", "packed-8", "packed-16"])
    args = parser.parse_args()
    model = find_model(models.EMBEDDED)
    took: dict[str, list[float]] = {variant: [] for variant in args.variants}
    errors = {}
    with tempfile.TemporaryDirectory() as work:
        for number, variant in in_turns(args.variants, args.rounds):
            out = Path(work) / f"{variant}-{number}"
            command, checkpoint = command_of(variant, args.recipe, args.samples, model, out)
            took[variant].append(seconds(command))
            if variant not in errors:
                errors[variant] = reconstruction(model.path, checkpoint)
    for variant, times in took.items():
        faster = ratios(took.get("plain", times), times)
        row = {"recipe": args.recipe, "variant": variant, "seconds": [round(t, 1) for t in times]}
        row |= {"times_faster_than_plain": [round(ratio, 3) for ratio in faster], "error": errors[variant]}
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
