"""One measured cell: `vllm bench serve`, vLLM's own load generator, against one server."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantpress import environment, files, process
from quantpress.console import Console
from quantpress.errors import StageError
from quantpress_serve.server import Server
from quantpress_serve.workload import Workload

PERCENTILES = "50,90,99"
METRICS = "ttft,tpot,itl,e2el"


@dataclass(frozen=True)
class Cell:
    role: str
    concurrency: int
    round: int

    @property
    def seed(self) -> int:
        """A fresh one for each round and concurrency, so that nothing is measured on prompts seen before.

        Candidate and baseline of one pair get the same prompts.
        """
        return 1000 * self.round + self.concurrency


def command(vllm: Path, server: Server, workload: Workload, cell: Cell, folder: Path, name: str) -> list[str]:
    requests = workload.requests_per_stream * cell.concurrency
    return [
        *(str(vllm), "bench", "serve", "--backend", "openai", "--base-url", server.url),
        *("--model", server.name, "--tokenizer", str(server.path), "--dataset-name", "random"),
        *("--random-input-len", str(workload.input_len), "--random-output-len", str(workload.output_len)),
        *("--ignore-eos", "--temperature", "0", "--seed", str(cell.seed), "--num-prompts", str(requests)),
        *("--num-warmups", str(cell.concurrency), "--max-concurrency", str(cell.concurrency)),
        *("--percentile-metrics", METRICS, "--metric-percentiles", PERCENTILES, "--disable-tqdm"),
        *(["--trust-remote-code"] if server.trust_remote_code else []),
        *("--save-result", "--result-dir", str(folder), "--result-filename", name),
    ]


def measure(
    vllm: Path, server: Server, workload: Workload, cell: Cell, folder: Path, log: Path, console: Console
) -> dict[str, Any]:
    """Runs one cell and returns vLLM's figures for it, with the command that repeats it. Raises StageError."""
    name = f"{cell.role}-c{cell.concurrency}-r{cell.round}.json"
    asked = command(vllm, server, workload, cell, folder, name)
    title = f"load on {cell.role}: concurrency {cell.concurrency}, round {cell.round + 1} of {workload.rounds}"
    with console.step(title, log) as step:
        code = process.run(asked, log, environment.serving_environment())
        if code != 0 or not (folder / name).is_file():
            raise StageError(
                f"vllm bench serve failed with exit code {code}: {process.last_error(log)}",
                hint="read the log",
                log=log,
            )
        raw = files.read_json(folder / name)
        step.result = f"{raw['output_throughput']:.1f} output tokens/s"
    figures = {
        key: value for key, value in raw.items() if isinstance(value, int | float) and not isinstance(value, bool)
    }
    return {
        "role": cell.role,
        "concurrency": cell.concurrency,
        "round": cell.round,
        "seed": cell.seed,
        "figures": figures,
        "command": shlex.join(asked),
    }
