"""Calibration and scoring in the model's own type against float32, in turns: seconds of each stage, and their ratio.

    make bench-compute-dtype ARGS="--rounds 1"        (nothing else may run meanwhile)

On a CPU with bf16 instructions, ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 show what one without them does.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from timing import in_turns, median_ratio

DTYPES = ("stored", "float32")


def seconds(stage: str, recipe: str, dtype: str, folder: Path, options: list[str]) -> float:
    """Of one run of a stage: quantizing, or scoring the checkpoint."""
    command = [sys.executable, "-m", "quantpress", stage, recipe, "--target", "any", "--compute-dtype", dtype]
    command += ["--out", str(folder), "--json", *options]
    done = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return float(done["runs"]["candidate"]["seconds"] if stage == "evaluate" else done["seconds"])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("recipes", nargs="*", default=["gptq-w4a16", "smoothquant-gptq-w8a8", "awq-w4a16"])
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--samples", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=256, help="of each sample")
    parser.add_argument("--limit", type=int, default=8, help="documents of each task that are scored")
    args = parser.parse_args()
    data = [f"calibration.samples={args.samples}", f"calibration.max_sequence_length={args.tokens}"]
    options = {
        "quantize": ["--model", args.model, *(part for one in data for part in ("--set", one))],
        "evaluate": ["--model", args.model, "--suite", "smoke", "--limit", str(args.limit)],
    }
    for stage, recipe in [*(("quantize", name) for name in args.recipes), ("evaluate", "w8a8-dynamic")]:
        taken: dict[str, list[float]] = {dtype: [] for dtype in DTYPES}
        for _, dtype in in_turns(DTYPES, args.rounds):
            with tempfile.TemporaryDirectory() as folder:
                taken[dtype].append(seconds(stage, recipe, dtype, Path(folder), options[stage]))
        ratio = median_ratio(taken["stored"], taken["float32"])
        print(f"{stage} {recipe}: {taken}; float32 is {ratio:.2f} times as fast", flush=True)


if __name__ == "__main__":
    main()
