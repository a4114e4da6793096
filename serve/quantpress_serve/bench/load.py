"""One measurement: `vllm bench serve`, vLLM's own load generator, sends requests to one server."""

from __future__ import annotations

import json
import shlex
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from quantpress.artifact.throughput import Cell, Figures, in_brackets
from quantpress.errors import StageError
from quantpress.runtime import atomic, console, process
from quantpress.runtime.secrets import without_secrets
from quantpress_serve import surroundings
from quantpress_serve.bench import interference
from quantpress_serve.server import client
from quantpress_serve.server.server import Server
from quantpress_serve.vllm import serving_environment
from quantpress_serve.workload.workload import Level, Workload, longest, middle, range_ratios, shortest

PERCENTILES = "50,90,99"
METRICS = "ttft,tpot,itl,e2el"
MOST_WARMUPS = 16
# Of the tokens that were asked for, how many must come at least. A server that does not say how many came is counted by
# the tokenizer, which may put a text into fewer tokens than the server did.
_SHARE = 0.8
_MOST_REASONS = 5  # of requests that failed, which a result names


@dataclass(frozen=True)
class Turn:
    """What is measured next: which side, under how much load, in which round. `base` differs from run to run."""

    role: str
    level: Level
    round: int
    base: int = 0

    @property
    def seed(self) -> int:
        """Another one for each run, round and level, so that no server is measured on prompts that it has seen before.

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

    def command(self, server: Server, turn: Turn, name: str) -> list[str]:
        level = turn.level
        warmups = min(level.concurrency or 2, MOST_WARMUPS)
        if level.concurrency:
            strength = ["--max-concurrency", str(level.concurrency)]
        else:
            strength = ["--request-rate", f"{level.request_rate:g}"]
        goals = self.workload.goodput.model_dump(exclude_none=True) if self.workload.goodput else {}
        return [
            *(str(self.vllm), "bench", "serve", "--backend", "openai", "--base-url", server.url),
            *("--model", server.name, "--tokenizer", str(server.tokens_by), *prompts_of(self.workload)),
            *("--ignore-eos", "--temperature", "0", "--seed", str(turn.seed)),
            *("--num-prompts", str(self.workload.requests_at(level)), "--num-warmups", str(warmups), *strength),
            *(["--goodput", *(f"{name}:{value:g}" for name, value in goals.items())] if goals else []),
            *("--percentile-metrics", METRICS, "--metric-percentiles", PERCENTILES, "--disable-tqdm"),
            *(["--trust-remote-code"] if server.trust_remote_code else []),
            # Detailed: with what each request failed of.
            *("--save-result", "--save-detailed", "--result-dir", str(self.folder), "--result-filename", name),
        ]

    def measure(self, server: Server, turn: Turn, others: Sequence[Server] = ()) -> Cell:
        """Runs the load generator once. Gives vLLM's figures and the command that repeats the measurement.

        Raises ServerLost if this server or one of the `others` goes away in the meantime, StageError if the load
        generator fails, or every request.
        """
        name = f"{turn.role}-{turn.level.label.replace(' ', '-').replace('/', '-')}-r{turn.round}.json"
        asked = self.command(server, turn, name)
        title = f"load on {turn.role}: {turn.level.label}, round {turn.round + 1} of {self.workload.rounds}"
        with console.step(title, self.log) as step:
            with interference.watching(self.folder, self.on_gpu) as watch:
                code = _run(asked, self.log, server, others)
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
            seed=turn.seed,
            figures=outcome.figures,
            errors=outcome.errors,
            machine=seen,
            untrustworthy=[*interference.problems(seen), *outcome.cut_short(self.workload)],
            command=shlex.join(asked),
        )

    def _outcome(self, name: str, code: int, server: Server) -> Outcome:
        """What the load generator wrote. Raises StageError if it failed, ServerLost if the server did."""
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
        return Outcome.of(atomic.read_json(self.folder / name))

    def _nothing_answered(self, server: Server, turn: Turn, outcome: Outcome) -> StageError:
        """The error for a cell without a single answer: in the server's own words, for which it is asked once more."""
        nothing = "no reason was given" if outcome.failed else "the answers hold no token"
        why = _refusal(server, self.workload) or "; ".join(outcome.errors) or nothing
        return StageError(
            f"no request to the {turn.role} was answered at {turn.level.label} "
            f"({outcome.failed} of {outcome.sent} failed): {why}",
            hint=server.where_to_look,
            log=server.log or self.log,
        )


@dataclass(frozen=True)
class Outcome:
    """What came of the load: vLLM's figures, and how many requests failed of what."""

    figures: Figures
    errors: dict[str, int]

    @classmethod
    def of(cls, written: dict[str, Any]) -> Outcome:
        """Of the load generator's result. Where it does not count failures, those are failed that did not complete."""
        numbers = {key: value for key, value in written.items() if isinstance(value, int | float)}
        figures: Figures = {key: value for key, value in numbers.items() if not isinstance(value, bool)}
        if "failed" not in figures and "completed" in figures and "num_prompts" in figures:
            figures["failed"] = figures["num_prompts"] - figures["completed"]
        reasons = Counter(_last_line(error) for error in written.get("errors") or [] if error)
        return cls(figures, dict(reasons.most_common(_MOST_REASONS)))

    @property
    def failed(self) -> int:
        return int(self.figures.get("failed", 0))

    @property
    def sent(self) -> int:
        return int(self.figures.get("completed", 0)) + self.failed

    @property
    def answered(self) -> bool:
        """Whether any request was, with a token at least."""
        nothing = 0 in (self.figures.get("completed", 1), self.figures.get("total_output_tokens", 1))
        return not nothing

    def cut_short(self, workload: Workload) -> list[str]:
        """Says so if the answers are much shorter than those that were asked for: a load that was none."""
        asked, tokens = shortest(workload.output_len), self.figures.get("total_output_tokens")
        if not asked or tokens is None or tokens >= _SHARE * asked * self.figures["completed"]:
            return []
        mean = tokens / self.figures["completed"]
        return [f"answers had {mean:.0f} tokens on average, and at least {asked} were asked for"]

    @property
    def said(self) -> str:
        """For the step's line: the speed, and how many requests failed, and of what."""
        failed = f"{self.failed} of {self.sent} requests failed{in_brackets(self.errors)}"
        speed = f"{self.figures.get('output_throughput', 0):.1f} output tokens/s"
        return f"{speed}; {failed}" if self.failed else speed


def _last_line(error: object) -> str:
    """What a request failed of: the last line of a traceback, or the reason of an HTTP status."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return without_secrets(lines[-1])[:200] if lines else "no reason was given"


def _refusal(server: Server, workload: Workload) -> str | None:
    """What the server says to a request as long as the workload's longest; None if it answers it.

    The load generator keeps the status of a request that failed, not what the server said.
    """
    prompt, answer = example(workload)
    body = {"prompt": prompt, "max_tokens": answer, "temperature": 0, "ignore_eos": True, "repetition_penalty": 1.0}
    try:
        server.ask("/v1/completions", body, timeout=60)
    except client.BadStatus as error:
        return error.whole
    except (OSError, ValueError) as error:
        return str(error)
    return None


def _run(asked: list[str], log: Path, server: Server, others: Sequence[Server]) -> int:
    """Runs the load generator, and stops it if a server goes away: it would wait for answers that never come."""
    host = urlsplit(server.url).hostname or ""
    changes = surroundings.of_load_generator(serving_environment(), host, server.key)
    with process.guarded(asked, log, changes) as running:
        while (code := running.poll()) is None:
            for one in (server, *others):
                one.require_running()
            time.sleep(0.1)
    return code


def example(workload: Workload) -> tuple[str | list[int], int]:
    """A prompt as long as the workload's longest (text, or token ids), and how many tokens answer it."""
    output = longest(workload.output_len)
    if workload.prompts is None:
        return [1] * longest(workload.input_len), output
    path = Path(workload.prompts.path)
    if workload.prompts.format == "jsonl":
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
        row = max(rows, key=lambda row: len(row["prompt"]))
        return row["prompt"], output or row["output_tokens"]
    said = [talk["conversations"][0]["value"] for talk in atomic.read_json(path) if talk.get("conversations")]
    return max(said, key=len), output or 16


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
