"""What the benchmarks share: variants in turns, the seconds of a command, ratios pair by pair.

On a machine that others share a time means little by itself; what ran beside it, in the same round, is what it is
compared with.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from statistics import median

QUIET = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def in_turns(variants: Sequence[str], rounds: int) -> Iterator[tuple[int, str]]:
    """Every variant once a round, with the round's number; each round begins with another one."""
    for number in range(rounds):
        first = number % len(variants)
        for variant in (*variants[first:], *variants[:first]):
            yield number, variant


def seconds(command: Sequence[str]) -> float:
    """How long a command takes. Ends the benchmark with the end of what it printed if it fails."""
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **QUIET})
    took = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr[-3000:]}")
    return took


def ratios(ones: Sequence[float], others: Sequence[float]) -> list[float]:
    """One over the other, pair by pair."""
    return [one / other for one, other in zip(ones, others, strict=True)]


def median_ratio(ones: Sequence[float], others: Sequence[float]) -> float:
    return median(ratios(ones, others))


def complaint(done: subprocess.CompletedProcess[str]) -> str:
    """What a command of quantpress that failed said instead of a result: its last error, or else its exit code."""
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    return (errors or [f"exit code {done.returncode}"])[-1].removeprefix("error: ")
