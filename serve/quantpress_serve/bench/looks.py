"""A first look at each server before it is loaded: is the checkpoint served by the planned kernels, does the engine
compute what was scored, does the checkpoint talk sense? Servers that are never up at the same time are looked at one by
one, and judged together."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from quantpress.artifact.served import DIFFERS, Served
from quantpress.artifact.throughput import BASELINE, CANDIDATE, Answer, KernelUse, Picture, ServerFacts, Throughput
from quantpress.errors import QuantpressError
from quantpress.runtime import console, environment
from quantpress_serve.bench import chat, kernels, likelihoods, picture
from quantpress_serve.bench.subject import Subject
from quantpress_serve.bench.workers import Likelihoods, Row
from quantpress_serve.probes import asking
from quantpress_serve.server.server import Server

# Both sides' likelihoods of a fixed text by transformers, by role, or why there are none.
Expected = dict[str, Likelihoods] | str


@dataclass(frozen=True)
class Look:
    """What one server said. `rows` are its likelihoods, `seen` is its answer to a question with an image; a text says
    why there is none, and None that it was not asked. `used` are the candidate's kernels (kernels.looked_at)."""

    server: Server
    facts: ServerFacts
    rows: list[Row] | str | None
    answers: list[Answer]
    seen: Answer | str | None
    used: list[KernelUse] | None = None


@dataclass(frozen=True)
class Known:
    """What was found out of the servers before the first load: facts and answers by role, the kernels, and whether the
    engine computes what was scored. `picture` is None for a model that takes no images; `rows` are the likelihoods of
    the fixed text, of the sides that gave them."""

    servers: dict[str, ServerFacts]
    served: Served
    answers: dict[str, list[Answer]]
    picture: Picture | None
    kernels: list[KernelUse] | None = None
    rows: dict[str, list[Row]] = field(default_factory=dict)


def expected(subject: Subject) -> Expected:
    """What transformers computes of both sides; before a server takes memory."""
    if subject.weights != "real":
        return "the weights are random"
    if subject.untruthful:
        return subject.untruthful
    log = subject.logs / f"{subject.name}.likelihoods.log"
    log.unlink(missing_ok=True)
    try:
        return likelihoods.by_transformers(subject.scored, subject.compute_dtype, log)
    except QuantpressError as error:
        return f"transformers gave no likelihoods: {error.message}"


def look_at(role: str, server: Server, subject: Subject, scored: Expected) -> Look:
    """Asks one server. Raises StageError if it does not answer, CapabilityError for other kernels than the planned ones
    where these are required."""
    used = kernels.looked_at(subject, {role: server}) if role == CANDIDATE else None
    real = subject.weights == "real"
    return Look(
        server=server,
        facts=_facts(server, subject),
        rows=None if isinstance(scored, str) else likelihoods.by_server(role, server, scored[role]),
        answers=chat.answers_of(role, server) if real else [],
        seen=picture.asked(role, server) if real and picture.takes_images(subject.model.config) else None,
        used=used,
    )


def judged(looks: dict[str, Look], subject: Subject, scored: Expected, baseline_vllm: Path) -> Known:
    """What the answers of all servers say together; `baseline_vllm` is what the baseline's server runs if it is ours.
    Raises StageError for a checkpoint that talks nonsense."""
    candidate = looks[CANDIDATE].server
    served = _served(looks, subject, scored, baseline_vllm)
    answers = {role: look.answers for role, look in looks.items() if look.answers}
    if answers:
        chat.require_sense(answers, candidate, served)
    seen = {role: look.seen for role, look in looks.items() if look.seen is not None}
    return Known(
        servers={role: look.facts for role, look in looks.items()},
        served=served,
        answers=answers,
        picture=picture.judged(seen, candidate, served) if seen else None,
        kernels=looks[CANDIDATE].used,
        rows=_rows(looks),
    )


def keep_rows(subject: Subject, result: Throughput, rows: dict[str, list[Row]]) -> None:
    """Keeps what the servers computed of the fixed text beside what transformers did: another engine may be held
    against it one day (quantpress recertify), when this one is gone."""
    for role, own in rows.items():
        scored = subject.scored[role]
        if known := scored.kept(subject.compute_dtype):
            scored.keep_served(result.engine(role).version, Likelihoods(windows=known.windows, likelihoods=own))


def _rows(looks: dict[str, Look]) -> dict[str, list[Row]]:
    """The likelihoods of the sides that gave them."""
    return {role: look.rows for role, look in looks.items() if isinstance(look.rows, list)}


def _served(looks: dict[str, Look], subject: Subject, scored: Expected, baseline_vllm: Path) -> Served:
    """Whether the engine computes what transformers scored; it is said here, whichever it is."""
    if isinstance(scored, str):
        return likelihoods.unknown(scored)
    if silent := [look.rows for look in looks.values() if isinstance(look.rows, str)]:
        return likelihoods.unknown(silent[0])
    rows = _rows(looks)
    if subject.on_two_engines:  # the same checkpoint: two kernels may round it otherwise
        other, apart = likelihoods.ENGINE_ON_RECORD, math.inf
    else:
        other, apart = likelihoods.UNQUANTIZED, likelihoods.APART
    expect = {role: scored[role].likelihoods for role in rows}
    served = likelihoods.compared(expect, rows, subject.inexact, other, apart)
    if served.cause and served.cause.startswith(other) and _by_own_operators(looks[BASELINE].server):
        operator = asking.wrong_operator(baseline_vllm)
        served = served.model_copy(update={"cause": "; ".join(filter(None, [served.cause, operator]))})
    say = console.warn if served.verdict == DIFFERS else console.say
    say(likelihoods.sentence(served))
    return served


def _by_own_operators(server: Server) -> bool:
    """Whether it is ours, on a CPU, and runs vLLM's operators as they are: what is compiled has torch's instead."""
    return server.running is not None and not environment.gpus() and "--enforce-eager" in (server.facts.argv or [])


def _facts(started: Server, subject: Subject) -> ServerFacts:
    """What is known of a server, the size of its weights from their files where vLLM did not tell (on a CPU)."""
    if started.facts.weights_gib is not None or started.running is None or subject.weights != "real":
        return started.facts
    size = sum(path.stat().st_size for path in started.path.glob("*.safetensors"))
    return started.facts.model_copy(update={"weights_gib": round(size / 2**30, 3), "weights_gib_from": "files"})
