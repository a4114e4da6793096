"""The two servers of a bench: started, or reached at their URLs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from quantpress.artifact.throughput import BASELINE, CANDIDATE
from quantpress.errors import InputError, StageError
from quantpress.model.config import positions
from quantpress.model.source import Model
from quantpress.runtime import console, environment
from quantpress_serve.bench import likelihoods
from quantpress_serve.bench.subject import Sides, Subject
from quantpress_serve.server import memory, server
from quantpress_serve.server.server import Launch, Server
from quantpress_serve.workload.workload import Workload


def kv_space(subject: Subject, load: Workload, sides: Sides) -> int | None:
    """GiB of each server's KV cache on a CPU: once for all starts, though the free memory may change between them."""
    if sides.vllm_url or environment.gpus():
        return None
    return memory.kv_space(subject.model.config, load, subject.weight_bytes, 2)


@dataclass(frozen=True)
class Start:
    """How servers of our own are started: by which executable, with which KV cache, and for which time."""

    vllm: Path
    kv_space_gib: int | None
    number: int


@contextmanager
def started(subject: Subject, load: Workload, sides: Sides, start: Start) -> Iterator[dict[str, Server]]:
    """The candidate's server and, unless only a foreign candidate was named, the baseline's.

    The one that is started first alternates from start to start.
    """
    model = subject.model
    paths = {CANDIDATE: (subject.candidate, subject.name), BASELINE: (model.path, model.name)}
    with ExitStack() as stack:
        if sides.vllm_url:
            try:
                found = sides.attached({role: path for role, (path, _) in paths.items()}, load)
            except InputError as error:  # it answered before the work began
                raise StageError(error.message, hint=error.hint) from error
            _warn_of_caches(found)
            yield found
            return
        found = {}
        for role in paths if start.number % 2 == 0 else reversed(paths):
            path, name = paths[role]
            launch = Launch(
                vllm=start.vllm,
                path=path.resolve(),
                name=name,
                engine=load.engine,
                model_len=_context(load, model),
                prefix_caching=load.prefix_caching,
                memory_share=1 / len(paths),
                trust_remote_code=model.trust_remote_code,
                tokenizer=subject.tokenizer,
                load_format="dummy" if subject.weights == "dummy" else None,
                kv_space_gib=start.kv_space_gib,
            )
            log = subject.logs / f"{subject.name}.vllm-{role}.log"
            port = sides.port if role == CANDIDATE else None
            found[role] = stack.enter_context(server.serving(launch, log, port))
        yield found


def _context(load: Workload, model: Model) -> int:
    """Tokens of context: what the load needs, and no less than the likelihoods need if the model has as much."""
    if load.engine.max_model_len:
        return load.engine.max_model_len
    least = likelihoods.WINDOW + 1
    return max(load.model_len, min(least, positions(model.config) or least))


def _warn_of_caches(servers: dict[str, Server]) -> None:
    for role, asked in servers.items():
        if asked.facts.prefix_caching:
            console.warn(f"the {role}'s server caches prefixes; fresh prompts keep that out of the figures, mostly")
