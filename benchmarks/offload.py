"""Memory and time of calibrating with the weights on the disk: a model, and one with twice as many layers.

    make bench-offload        (times only count where nothing else runs meanwhile)

Makes Llamas of random weights with N and 2N layers (hidden 1024, intermediate 4096), quantizes each in memory and from
the disk, in turns, and prints for each the seconds, whether all wrote the same tensors, and two peaks of the process
that does it: all its pages (VmHWM), and those that are no part of a mapped file (RssAnon, looked at every 50 ms). Pages
of mapped files count in the first one, and the kernel takes them back where it needs memory.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from quantpress.model import headers
from quantpress.model import source as models
from quantpress.model.source import find_model
from timing import QUIET, in_turns

SETTINGS = ["calibration.samples=4", "calibration.max_sequence_length=128"]


def make_model(folder: Path, layers: int, tokenizer: Path) -> None:
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=layers,
        num_attention_heads=16,
        num_key_value_heads=4,
        vocab_size=49152,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)


def peaks_of(command: list[str]) -> tuple[float, float, float]:
    """Seconds of a command, and the greatest VmHWM and RssAnon among the processes that it starts, in GB."""
    started, whole, anonymous = time.perf_counter(), 0, 0
    process = subprocess.Popen(command, env={**os.environ, **QUIET}, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        for child in psutil.Process(process.pid).children(recursive=True):
            with suppress(OSError):
                status = Path(f"/proc/{child.pid}/status").read_text()
                whole = max([whole, *map(int, re.findall(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE))])
                anonymous = max([anonymous, *map(int, re.findall(r"^RssAnon:\s+(\d+) kB$", status, re.MULTILINE))])
        time.sleep(0.05)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit {process.returncode}")
    return time.perf_counter() - started, whole / 1e6, anonymous / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--recipe", default="gptq-w4a16")
    parser.add_argument("--rounds", type=int, default=1)
    args = parser.parse_args()
    tokenizer = find_model(models.EMBEDDED).path
    shown: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as work:
        for layers in (args.layers, 2 * args.layers):
            folder = Path(work, f"layers-{layers}")
            make_model(folder, layers, tokenizer)
            took: dict[str, list[tuple[float, float, float]]] = {"never": [], "disk": []}
            made = set()
            for number, offload in in_turns(list(took), args.rounds):
                out = Path(work, "out", f"{offload}-{number}")
                command = [sys.executable, "-m", "quantpress", "quantize", args.recipe, "--model", str(folder)]
                command += ["--out", str(out), "--offload", offload, "--target", "any"]
                command += [option for setting in SETTINGS for option in ("--set", setting)]
                took[offload].append(peaks_of(command))
                checkpoint = out / folder.name / args.recipe / "checkpoint"
                made.add(json.dumps(headers.digests(checkpoint), sort_keys=True))
            for offload, runs in took.items():
                seconds, whole, anonymous = zip(*runs, strict=True)
                row = {"layers": layers, "offload": offload, "peak_gb": round(max(whole), 3)}
                row |= {"peak_beside_files_gb": round(max(anonymous), 3)}
                shown.append(row | {"seconds": round(median(seconds), 1), "same_tensors": len(made) == 1})
                print(json.dumps(shown[-1]), flush=True)
    for kind in ("peak_gb", "peak_beside_files_gb"):
        few, many = (float(row[kind]) for row in shown if row["offload"] == "disk")
        print(f"from the disk, {kind} with twice the layers: {many / few - 1:+.1%}")


if __name__ == "__main__":
    main()
