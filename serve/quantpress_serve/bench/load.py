"""One measured cell: `vllm bench serve`, vLLM's own load generator, against one server."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantpress.errors import StageError
from quantpress.runtime import atomic, console, process
from quantpress_serve.bench import interference
from quantpress_serve.server.server import Server
from quantpress_serve.vllm import serving_environment
from quantpress_serve.workload.workload import Level, Workload, longest, middle, range_ratios

PERCENTILES = "50,90,99"
METRICS = "ttft,tpot,itl,e2el"
MOST_WARMUPS = 16


@dataclass(frozen=True)
class Cell:
    """One measurement: which side, how much load, the how manieth round; `base` differs from run to run."""

    role: str
    level: Level
    round: int
    base: int = 0

    @property
    def seed(self) -> int:
        """A fresh one for each run, round and level, so that nothing is measured on prompts seen before.

        Candidate and baseline of one pair get the same prompts.
        """
        strength = self.level.concurrency or round(100 * (self.level.request_rate or 0))
        return (self.base + 1_000_003 * self.round + strength) % 2**32


@dataclass(frozen=True)
class Generator:
    """`vllm bench serve` under one workload. Its results go to `folder`, what it prints to `log`."""

    vllm: Path
    workload: Workload
    folder: Path
    log: Path
    on_gpu: frozenset[str] = frozenset()

    def command(self, server: Server, cell: Cell, name: str) -> list[str]:
        level = cell.level
        warmups = min(level.concurrency or 2, MOST_WARMUPS)
        if level.concurrency:
            strength = ["--max-concurrency", str(level.concurrency)]
        else:
            strength = ["--request-rate", f"{level.request_rate:g}"]
        goals = self.workload.goodput.model_dump(exclude_none=True) if self.workload.goodput else {}
        return [
            *(str(self.vllm), "bench", "serve", "--backend", "openai", "--base-url", server.url),
            *("--model", server.name, "--tokenizer", str(server.tokens_by), *prompts_of(self.workload)),
            *("--ignore-eos", "--temperature", "0", "--seed", str(cell.seed)),
            *("--num-prompts", str(self.workload.requests_at(level)), "--num-warmups", str(warmups), *strength),
            *(["--goodput", *(f"{name}:{value:g}" for name, value in goals.items())] if goals else []),
            *("--percentile-metrics", METRICS, "--metric-percentiles", PERCENTILES, "--disable-tqdm"),
            *(["--trust-remote-code"] if server.trust_remote_code else []),
            *("--save-result", "--result-dir", str(self.folder), "--result-filename", name),
        ]

    def measure(self, server: Server, cell: Cell, others: Sequence[Server] = ()) -> dict[str, Any]:
        """Runs one cell and returns vLLM's figures for it, with the command that repeats it.

        Raises ServerLost if this server or one of the `others` goes away meanwhile, StageError if the load generator
        fails.
        """
        name = f"{cell.role}-{cell.level.label.replace(' ', '-').replace('/', '-')}-r{cell.round}.json"
        asked = self.command(server, cell, name)
        title = f"load on {cell.role}: {cell.level.label}, round {cell.round + 1} of {self.workload.rounds}"
        with console.step(title, self.log) as step:
            with interference.watching(self.folder, self.on_gpu) as seen:
                code = _run(asked, self.log, (server, *others))
            raw = self._result(name, code, server)
            step.result = f"{raw['output_throughput']:.1f} output tokens/s"
        if any(one.running is None for one in (server, *others)):
            seen.shares.pop("other_work", None)  # a server that someone else runs may be among the other programs
        return {
            "role": cell.role,
            "concurrency": cell.level.concurrency,
            "request_rate": cell.level.request_rate,
            "round": cell.round,
            "seed": cell.seed,
            "figures": {key: value for key, value in raw.items() if _is_number(value)},
            "machine": seen.record(),
            "untrustworthy": seen.problems(),
            "command": shlex.join(asked),
        }

    def _result(self, name: str, code: int, server: Server) -> Any:
        if code != 0 or not (self.folder / name).is_file():
            server.require_healthy()
            said = process.last_error(self.log)
            raise StageError(
                f"vllm bench serve failed with exit code {code}: {said}",
                hint=f"install vLLM's extra `bench` beside {self.vllm}"
                if "No module named" in said
                else "read the log",
                log=self.log,
            )
        server.require_healthy()  # and still the one that was asked at first
        return atomic.read_json(self.folder / name)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _run(asked: list[str], log: Path, servers: Sequence[Server]) -> int:
    """Runs the load generator, and stops it if a server goes away: it would wait for answers that never come."""
    with process.guarded(asked, log, serving_environment()) as running:
        while (code := running.poll()) is None:
            for server in servers:
                server.require_running()
            time.sleep(0.1)
    return code


def prompts_of(workload: Workload) -> list[str]:
    """The arguments that say which prompts are sent and how long the answers are."""
    if workload.prompts is None:
        assert workload.input_len and workload.output_len  # checked by Workload
        lengths = ["--random-input-len", str(middle(workload.input_len))]
        lengths += ["--random-output-len", str(middle(workload.output_len))]
        ratios = range_ratios(workload)
        return ["--dataset-name", "random", *lengths, *(["--random-range-ratio", ratios] if ratios else [])]
    path, output = workload.prompts.path, longest(workload.output_len)
    if workload.prompts.format == "sharegpt":
        fixed = ["--sharegpt-output-len", str(output)] if output else []
        return ["--dataset-name", "sharegpt", "--dataset-path", path, *fixed]
    # Prompts go out as they are written; -1 takes each line's output_tokens.
    return [
        "--dataset-name",
        "custom",
        "--dataset-path",
        path,
        "--skip-chat-template",
        "--custom-output-len",
        str(output or -1),
    ]
