"""A few questions to servers that have just loaded: does the checkpoint talk sense, as its model does?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from quantpress.artifact.served import Served
from quantpress.artifact.throughput import BASELINE, CANDIDATE, Answer
from quantpress.errors import StageError
from quantpress.runtime import console
from quantpress_serve.bench import likelihoods
from quantpress_serve.server import client
from quantpress_serve.server.client import Json
from quantpress_serve.server.foreign import NO_CHAT
from quantpress_serve.server.server import Server
from quantpress_serve.writing.repetition import degenerate, loop

# A question, and the beginning of its answer for models without a chat template.
QUESTIONS = (
    ("What is the capital of France?", "The capital of France is"),
    ("Why is the sky blue? Answer in two sentences.", "The sky is blue because"),
    ("Write a short Python function that adds two numbers.", "def add(a, b):\n"),
    ("Name three animals that live in the sea.", "Three animals that live in the sea are"),
    ("Tell me how to make a cup of tea.", "To make a cup of tea, first"),
)
MAX_TOKENS = 48
_LOWEST = -9999.0  # vLLM writes this for a log-probability of minus infinity


def answers_of(role: str, server: Server) -> list[Answer]:
    """A server's answers to all questions, at once: a slow engine answers them together in little more time than one.

    Raises StageError if it gives none.
    """
    with console.step(f"{len(QUESTIONS)} questions to the {role}"), ThreadPoolExecutor(len(QUESTIONS)) as pool:
        given = list(pool.map(lambda question: _answer_of(server, *question), QUESTIONS))
    console.say(f"  {role}: {given[0].question} -> {' '.join(given[0].answer.split())}")
    return given


def require_sense(answers: dict[str, list[Answer]], candidate: Server, served: Served) -> None:
    """Raises StageError for an answer of the candidate's that is degenerate where the baseline's is not, and the
    likelihoods (`served`) do not say otherwise; it then says who is to blame.

    One answer in a loop is no proof: where the likelihoods of a whole text are sound, it is a warning. A baseline that
    talks nonsense itself (random weights) proves nothing about the candidate: that is one too.
    """
    baseline = answers.get(BASELINE, [])
    for number, own in enumerate(answers[CANDIDATE]):
        if own.problem and not (baseline and baseline[number].problem):
            beside = f"; the unquantized model says {baseline[number].answer[:80]!r}" if baseline else ""
            said = f"{candidate.name} answers {own.question!r} with {own.answer[:80]!r} ({own.problem}){beside}"
            _blame(said, likelihoods.to_blame(served), served, candidate)
    if broken := [answer for answer in baseline if answer.problem]:
        console.warn(
            f"the unquantized model itself answers {broken[0].question!r} with {broken[0].answer[:40]!r} "
            f"({broken[0].problem}; {len(broken)} of {len(baseline)} answers): the chat check says nothing there"
        )


def _blame(said: str, who: str | None, served: Served, candidate: Server) -> None:
    if who == "neither":
        console.warn(f"{said}. Its likelihoods are sound, so it is not called broken: {likelihoods.sentence(served)}")
        return
    if who == "engine":
        raise StageError(
            f"{said}: the engine is to blame, not the checkpoint. {likelihoods.sentence(served)}",
            hint="use a recipe that this machine serves exactly: quantpress plan RECIPE",
            log=candidate.log,
        )
    proof = ", and transformers computes it no better: the checkpoint is to blame" if who == "checkpoint" else ""
    raise StageError(
        f"{said}: the checkpoint loads but talks nonsense{proof}",
        hint="try another scheme, or more calibration data",
        log=candidate.log,
    )


def _answer_of(server: Server, question: str, beginning: str) -> Answer:
    """One greedy answer. No `seed` is sent: on a CPU, vLLM 0.32.0 dies of a seeded request ("CPU Generator does not use
    offset"), and a greedy answer needs none.

    Raises StageError if the server does not answer.
    """
    common = {"max_tokens": MAX_TOKENS, "temperature": 0}
    try:
        try:
            body = {**common, "messages": [{"role": "user", "content": question}], "logprobs": True}
            return answer_of_choice(question, server.ask("/v1/chat/completions", body)["choices"][0])
        except client.BadStatus as error:
            if error.code not in NO_CHAT:
                raise
        body = {**common, "prompt": beginning, "logprobs": 1}
        choice = server.ask("/v1/completions", body)["choices"][0]
        logprobs = choice.get("logprobs") or {"tokens": [], "token_logprobs": []}
        steps = list(zip(logprobs["tokens"], logprobs["token_logprobs"], strict=True))
        return answered(beginning, choice["text"], steps)
    except client.BadStatus as error:
        if "not JSON compliant" in error.said:
            problem = "its log-probabilities are not finite"
            return Answer(question=question, answer="", tokens=0, mean_logprob=None, problem=problem)
        raise silent(server, error.whole) from error
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise silent(server, error) from error


def answer_of_choice(question: str, choice: Json) -> Answer:
    """What a server chose to answer in a chat. Raises LookupError, TypeError or ValueError if it is no answer."""
    steps = [(step["token"], step["logprob"]) for step in (choice.get("logprobs") or {}).get("content") or []]
    return answered(question, _text_of(choice["message"]), steps)


def _text_of(message: Json) -> Json:
    """What it says, or what it thinks where it has not come to an answer yet: some servers keep the two apart."""
    return next((text for name in ("content", "reasoning_content", "reasoning") if (text := message.get(name))), "")


def silent(server: Server, error: object) -> StageError:
    """The error for a server that gave no answer. Raises ServerLost, with the cause, if it died of the request."""
    server.require_healthy()
    said = f"the server did not answer a chat request: {error}"
    return StageError(said, hint=server.where_to_look, log=server.log)


def answered(question: str, text: Json, steps: Sequence[tuple[str, float | None]]) -> Answer:
    """The answer with what is wrong with it. Raises ValueError if it is no text."""
    if not isinstance(text, str):
        raise ValueError(f"the answer is {text!r}, not text")
    logprobs = [logprob for _, logprob in steps]
    numbers = [logprob for logprob in logprobs if isinstance(logprob, int | float)]
    finite = [logprob for logprob in numbers if math.isfinite(logprob) and logprob > _LOWEST]
    problem = "its log-probabilities are not finite" if len(finite) < len(logprobs) else degenerate(text)
    problem = problem or loop([token for token, _ in steps])
    mean = sum(finite) / len(finite) if finite and len(finite) == len(logprobs) else None
    return Answer(question=question, answer=text.strip(), tokens=len(steps), mean_logprob=mean, problem=problem)
