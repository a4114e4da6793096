"""Runs in vLLM's environment: lets a model write chats, whose questions and seeds come from a file.

    python chats_probe.py JOB.json

The job is a JSON object, whose fields `Job` names. Writes chats.jsonl and written.json into its folder.

The same model, vLLM, machine and job give the same chats. So each answer has a seed of its own, the engine runs in this
process (all requests are there before its first step), and no prompt is computed in parts: on a CPU a request with a
seed kills vLLM 0.32 where its prompt is ("CPU Generator does not use offset").
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

from repetition import circles, degenerate  # type: ignore[import-not-found]  # the file beside this one

LEAST_AT_ONCE = 8  # conversations
TOKENS_EACH = 400  # that a conversation comes to, about
PASSES = 8  # over the questions, each with other seeds
ANOTHER_PASS = 1_000_000  # is added to the seeds


class Job(TypedDict):
    """`tokens` is how many the kept conversations are to have in all; `context` the most that one may have; `at_once`
    how many conversations are held together at most."""

    model: str
    questions: str
    folder: str
    tokens: int
    context: int
    at_once: int
    max_answer_tokens: int
    temperature: float
    tensor_parallel_size: int
    enforce_eager: bool
    trust_remote_code: bool


@dataclass
class Talk:
    """A conversation under way: what was said, and how many tokens that is."""

    seed: int
    turns: list[str]
    messages: list[dict[str, str]] = field(default_factory=list)
    tokens: int = 0
    ended: bool = False

    def hear(self, question: str, output: Any, dropped: Counter[str]) -> None:
        """Keeps the answer with its question; an answer that is none ends the conversation before its question."""
        answer = output.outputs[0]
        if problem := problem_of(answer.text, answer.finish_reason):
            dropped[problem] += 1
            self.ended = True
            return
        self.messages += [said("user", question), said("assistant", answer.text.strip())]
        self.tokens = len(output.prompt_token_ids) + len(answer.token_ids)


def said(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def problem_of(answer: str, finish_reason: str | None) -> str | None:
    """Why an answer is not kept; None for one that is."""
    if not answer.strip():
        return "empty"
    if degenerate(answer) or circles(answer):
        return "repeating"
    return None if finish_reason == "stop" else "cut"


def batches(questions: list[dict[str, Any]], job: Job) -> Iterator[list[Talk]]:
    """The conversations to hold, as many at a time as the tokens are worth."""
    size = min(job["at_once"], max(LEAST_AT_ONCE, job["tokens"] // TOKENS_EACH))
    for number in range(PASSES):
        for start in range(0, len(questions), size):
            rows = questions[start : start + size]
            yield [Talk(row["seed"] + number * ANOTHER_PASS, row["turns"]) for row in rows]


def hold(talks: list[Talk], llm: Any, job: Job, dropped: Counter[str]) -> None:
    """Asks the questions of these conversations, turn by turn."""
    from vllm import SamplingParams

    for turn in range(max(len(talk.turns) for talk in talks)):
        going = [talk for talk in talks if not talk.ended and turn < len(talk.turns)]
        if not going:
            return
        asked = [[*talk.messages, said("user", talk.turns[turn])] for talk in going]
        each = [
            SamplingParams(temperature=job["temperature"], max_tokens=job["max_answer_tokens"], seed=talk.seed)
            for talk in going
        ]
        # Thoughts would fill the answers of models that think; templates of others do not look at it.
        outputs = llm.chat(asked, each, chat_template_kwargs={"enable_thinking": False})
        for talk, output in zip(going, outputs, strict=True):
            talk.hear(talk.turns[turn], output, dropped)


def write(job: Job, llm: Any) -> dict[str, Any]:
    """Holds conversations until they have enough tokens, or until it is plain that they will not."""
    questions = [json.loads(line) for line in Path(job["questions"]).read_text(encoding="utf-8").splitlines()]
    dropped: Counter[str] = Counter()
    kept: list[Talk] = []
    seeds: list[int] = []
    for talks in batches(questions, job):
        hold(talks, llm, job, dropped)
        kept += [talk for talk in talks if talk.messages]
        seeds += [talk.seed for talk in talks]
        tokens = sum(talk.tokens for talk in kept)
        print(f"{tokens} of {job['tokens']} tokens", flush=True)
        if tokens >= job["tokens"] or (not kept and len(seeds) >= len(questions)):
            break
    with Path(job["folder"], "chats.jsonl").open("w", encoding="utf-8") as stream:
        stream.writelines(json.dumps({"messages": talk.messages}, ensure_ascii=False) + "\n" for talk in kept)
    return {
        "seeds": [min(seeds), max(seeds)],
        "asked": len(seeds),
        "conversations": len(kept),
        "tokens": sum(talk.tokens for talk in kept),
        "dropped": dict(sorted(dropped.items())),
    }


def main(job: Job) -> None:
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    from vllm import LLM

    llm = LLM(
        model=job["model"],
        max_model_len=job["context"],
        max_num_seqs=job["at_once"],
        max_num_batched_tokens=2 * job["context"],
        enable_chunked_prefill=False,
        enable_prefix_caching=False,
        enforce_eager=job["enforce_eager"],
        tensor_parallel_size=job["tensor_parallel_size"],
        trust_remote_code=job["trust_remote_code"],
        seed=0,
    )
    Path(job["folder"], "written.json").write_text(json.dumps(write(job, llm)), encoding="utf-8")


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
