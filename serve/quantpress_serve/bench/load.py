"""One measurement: `vllm bench serve`, vLLM's own load generator, sends requests to one server."""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from quantpress.artifact.throughput import Cell
from quantpress.errors import StageError
from quantpress.runtime import atomic, console, process
from quantpress.statistics.percentiles import is_carried
from quantpress_serve import surroundings
from quantpress_serve.bench import interference
from quantpress_serve.bench.outcome import Outcome
from quantpress_serve.bench.starter import Starter
from quantpress_serve.server.server import Server, ServerLost
from quantpress_serve.vllm import serving_environment
from quantpress_serve.workload.workload import Level, Workload, longest, middle, range_ratios

PERCENTILES = (50, 90, 99)  # as far as the requests of a cell carry them
METRICS = "ttft,tpot,itl,e2el"
MOST_WARMUPS = 16
# What a load may take at most: the load generator's start, and of each request a speed at which nobody serves. vLLM's
# generator itself would wait six hours for a server that has stopped answering.
_BESIDE_REQUESTS_S = 900
_SLOWEST_PROMPT, _SLOWEST_ANSWER = 20.0, 1.0  # tokens a second


@dataclass(frozen=True)
class Turn:
    """What is measured next: which side, under how much load, in which round, after which start of the servers.

    `base` differs from run to run.
    """

    role: str
    level: Level
    round: int
    base: int = 0
    start: int = 0

    @property
    def seed(self) -> int:
        """Another one for each run, round and level, so that no server is measured on prompts that it has seen before.

        Candidate and baseline of one pair get the same prompts.
        """
        strength = self.level.concurrency or round(100 * (self.level.request_rate or 0))
        return (self.base + 1_000_003 * self.round + strength) % 2**32


@dataclass(frozen=True)
class Generator:
    """`vllm bench serve` under one workload. Its results go to `folder`."""

    starter: Starter
    workload: Workload
    folder: Path
    on_gpu: frozenset[str] = frozenset()

    def command(self, server: Server, turn: Turn, name: str) -> list[str]:
        level = turn.level
        warmups = min(level.concurrency or 2, MOST_WARMUPS)
        if level.concurrency:
            strength = ["--max-concurrency", str(level.concurrency)]
        else:
            strength = ["--request-rate", f"{level.request_rate:g}"]
        requests = self.workload.requests_at(level)
        percentiles = ",".join(str(one) for one in PERCENTILES if one == 50 or is_carried(one, requests))
        goals = self.workload.goodput.model_dump(exclude_none=True) if self.workload.goodput else {}
        return [
            *(str(self.starter.vllm), "bench", "serve", "--backend", "openai", "--base-url", server.url),
            *("--model", server.name, "--tokenizer", str(server.tokens_by), *prompts_of(self.workload)),
            *("--ignore-eos", "--temperature", "0", "--seed", str(turn.seed)),
            *("--num-prompts", str(requests), "--num-warmups", str(warmups), *strength),
            *(["--goodput", *(f"{name}:{value:g}" for name, value in goals.items())] if goals else []),
            *("--percentile-metrics", METRICS, "--metric-percentiles", percentiles, "--disable-tqdm"),
            *(["--trust-remote-code"] if server.trust_remote_code else []),
            # Detailed: with what each request failed of.
            *("--save-result", "--save-detailed", "--result-dir", str(self.folder), "--result-filename", name),
        ]

    def measure(self, server: Server, turn: Turn, others: Sequence[Server] = ()) -> Cell:
        """Runs the load generator once. Gives vLLM's figures and the command that repeats the measurement.

        Raises ServerLost if this server or one of the `others` goes away in the meantime, or does not answer in any
        time; StageError if the load generator fails, or every request.
        """
        name = f"{turn.role}-{turn.level.label.replace(' ', '-').replace('/', '-')}-r{turn.round}.json"
        asked = self.command(server, turn, name)
        title = f"load on {turn.role}: {turn.level.label}, round {turn.round + 1} of {self.workload.rounds}"
        with console.step(title, self.starter.log) as step:
            with interference.watching(self.folder, self.on_gpu) as watch:
                code = self._run(asked, server, others, longest_time(self.workload, turn.level))
            outcome = self._outcome(name, code, server)
            step.result = outcome.said
            if not outcome.answered:
                raise self._nothing_answered(server, turn, outcome)
        seen = watch.seen
        if any(other.running is None for other in (server, *others)):
            # A server that someone else runs may be among the other programs.
            seen = seen.model_copy(update={"other_work": None})
        return Cell(
            role=turn.role,
            concurrency=turn.level.concurrency,
            request_rate=turn.level.request_rate,
            round=turn.round,
            start=turn.start,
            seed=turn.seed,
            figures=outcome.figures,
            errors=outcome.errors,
            machine=seen,
            untrustworthy=[*interference.problems(seen), *outcome.cut_short(self.workload)],
            command=shlex.join(asked),
        )

    def _run(self, asked: list[str], server: Server, others: Sequence[Server], longest_s: float) -> int:
        """Runs the load generator, and stops it if a server goes away or the load does not end: it would wait for
        answers that never come."""
        ends = time.monotonic() + longest_s
        host = urlsplit(server.url).hostname or ""
        changes = surroundings.of_load_generator(serving_environment(), host, server.key)
        with self.starter.started(asked, changes) as poll:
            while (code := poll()) is None:
                for one in (server, *others):
                    one.require_running()
                if time.monotonic() > ends:
                    raise ServerLost(
                        f"the server of {server.name} at {server.url} did not answer a load within "
                        f"{longest_s / 60:.0f} min, and a server at one token a second would have",
                        hint=f"{server.where_to_look}; or send it fewer requests (the workload's requests_per_stream)",
                        log=server.log or self.starter.log,
                    )
                time.sleep(0.1)
        return code

    def _outcome(self, name: str, code: int, server: Server) -> Outcome:
        """What the load generator wrote. Raises StageError if it failed, ServerLost if the server did."""
        if code != 0 or not (self.folder / name).is_file():
            server.require_healthy()
            said = process.last_error(self.starter.log)
            raise StageError(
                f"vllm bench serve failed with exit code {code}: {said}",
                hint=self._hint(said),
                log=self.starter.log,
            )
        server.require_healthy()  # and still the one that was asked at first
        return Outcome.of(atomic.read_json(self.folder / name)).explained(server, self.workload)

    def _hint(self, said: str) -> str:
        """What helps against the load generator's last words."""
        if "No module named" in said:
            return f"install vLLM's extra `bench` beside {self.starter.vllm}"
        if "empty sequence" in said and self.workload.prompts:  # random.choice of the conversations that are left
            return (
                f"vLLM passed over every conversation of {self.workload.prompts.path}: it takes prompts of 4 to 1024 "
                "tokens, with answers of 4 tokens at least and 2048 together; give longer ones as jsonl"
            )
        return "read the log"

    def _nothing_answered(self, server: Server, turn: Turn, outcome: Outcome) -> StageError:
        hint = server.where_to_look
        if "maximum context length" in outcome.why_nothing:
            hint = "shorten the workload's prompts, or raise its engine.max_model_len"
        return StageError(
            f"no request to the {turn.role} was answered at {turn.level.label} "
            f"({outcome.failed} of {outcome.sent} failed): {outcome.why_nothing}",
            hint=hint,
            log=server.log or self.starter.log,
        )


def longest_time(workload: Workload, level: Level) -> float:
    """Seconds after which a load counts as one that does not end."""
    prompt, answer = longest(workload.input_len), longest(workload.output_len)
    if workload.prompts:
        prompt, answer = workload.longest_request, answer or workload.longest_request
    each = prompt / _SLOWEST_PROMPT + answer / _SLOWEST_ANSWER
    requests = workload.requests_at(level)
    turns = math.ceil(requests / (level.concurrency or 1)) + 1  # and those that warm up
    arriving = requests / level.request_rate if level.request_rate else 0.0
    return _BESIDE_REQUESTS_S + arriving + turns * each


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
