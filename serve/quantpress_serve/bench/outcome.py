"""What came of a load: vLLM's figures, how many requests failed, and of what."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from quantpress.artifact.throughput import Figures, in_brackets
from quantpress.runtime import atomic
from quantpress.runtime.secrets import without_secrets
from quantpress_serve.server.client import BadStatus
from quantpress_serve.server.server import Server
from quantpress_serve.workload.workload import Workload, longest, shortest

_MOST_REASONS = 5  # of requests that failed, which a result names
# Of the tokens that were asked for, how many must come at least. A server that does not say how many came is counted by
# the tokenizer, which may put a text into fewer tokens than the server did.
_SHARE = 0.8
_SOME_TOKENS = 16  # of an answer whose length the file of prompts leaves to the load generator


@dataclass(frozen=True)
class Outcome:
    """Of one run of the load generator; `errors` says how many requests failed of what."""

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
        return 0 not in (self.figures.get("completed"), self.figures.get("total_output_tokens"))

    def explained(self, server: Server, workload: Workload) -> Outcome:
        """With the server's own words: it is asked once more, since the load generator keeps the status alone."""
        if not self.failed or (refusal := _refusal(server, workload)) is None:
            return self
        if not self.errors:
            return replace(self, errors={refusal.whole: self.failed})
        named = {refusal.whole if why == refusal.reason else why: count for why, count in self.errors.items()}
        return replace(self, errors=named)

    def cut_short(self, workload: Workload) -> list[str]:
        """Says so if the answers are much shorter than those that were asked for: a load that was none."""
        asked, tokens = shortest(workload.output_len), self.figures.get("total_output_tokens")
        completed = self.figures.get("completed")
        if not asked or tokens is None or not completed or tokens >= _SHARE * asked * completed:
            return []
        mean = tokens / completed
        return [f"answers had {mean:.0f} tokens on average, and at least {asked} were asked for"]

    @property
    def said(self) -> str:
        """For the step's line: the speed, and how many requests failed, and of what."""
        speed = f"{self.figures.get('output_throughput', 0):.1f} output tokens/s"
        return (
            f"{speed}; {self.failed} of {self.sent} requests failed{in_brackets(self.errors)}" if self.failed else speed
        )

    @property
    def why_nothing(self) -> str:
        """Why no request was answered."""
        return "; ".join(self.errors) or ("no reason was given" if self.failed else "the answers hold no token")


def _last_line(error: object) -> str:
    """What a request failed of: the last line of a traceback, or the reason of an HTTP status."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return without_secrets(lines[-1])[:200] if lines else "no reason was given"


def _refusal(server: Server, workload: Workload) -> BadStatus | None:
    """How the server refuses a request as long as the workload's longest; None if it does not."""
    prompt, answer = example(workload)
    body = {"prompt": prompt, "max_tokens": answer, "temperature": 0, "ignore_eos": True, "repetition_penalty": 1.0}
    try:
        server.ask("/v1/completions", body, timeout=60)
    except BadStatus as refusal:
        return refusal
    except (OSError, ValueError):
        return None
    return None


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
    return max(said, key=len), output or _SOME_TOKENS
