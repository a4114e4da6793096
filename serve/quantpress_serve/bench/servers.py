"""The servers of a bench: started, or reached at their URLs."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from quantpress.artifact.throughput import ATTACHED, BASELINE, CANDIDATE, TOGETHER
from quantpress.errors import InputError, StageError
from quantpress.model.config import Config, positions
from quantpress.model.source import Model
from quantpress.runtime import console, environment
from quantpress_serve.bench import likelihoods
from quantpress_serve.bench.pairing import Pairing
from quantpress_serve.bench.subject import Sides, Subject
from quantpress_serve.server import memory, server
from quantpress_serve.server.server import Launch, Server
from quantpress_serve.workload.workload import Workload

Spaces = dict[str, int | None]  # GiB of each side's KV cache on a CPU; None where vLLM sizes it


def kv_spaces(config: Config, load: Workload, weights: Mapping[str, int], pairing: Pairing) -> Spaces:
    """Once for all starts, though the free memory may change between them. `weights` are bytes, by role.

    Raises CapabilityError where the memory does not hold the servers.
    """
    if pairing.name == ATTACHED or environment.gpus():
        return dict.fromkeys(weights)
    if pairing.name == TOGETHER:
        return dict.fromkeys(weights, memory.kv_space(config, load, sum(weights.values()), len(weights)))
    return {role: memory.kv_space(config, load, size, 1) for role, size in weights.items()}


@dataclass(frozen=True)
class Start:
    """How servers of our own are started: by which executables, by role, how paired, with which KV cache, for which
    time."""

    vllm: Mapping[str, Path]
    pairing: Pairing
    spaces: Spaces
    number: int


@contextmanager
def started(
    subject: Subject, load: Workload, sides: Sides, start: Start, roles: Collection[str]
) -> Iterator[dict[str, Server]]:
    """The servers of these sides; of someone else's the candidate's alone, if no other was named.

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
            if role not in roles:
                continue
            path, name = paths[role]
            launch = Launch(
                vllm=start.vllm[role],
                path=path.resolve(),
                name=name,
                engine=load.engine.online(subject.online if role == CANDIDATE else None),
                model_len=_context(load, model),
                prefix_caching=load.prefix_caching,
                memory_share=start.pairing.memory_share,
                devices=start.pairing.devices_of(role, start.number),
                trust_remote_code=model.trust_remote_code,
                tokenizer=subject.tokenizer,
                load_format="dummy" if subject.weights == "dummy" else None,
                kv_space_gib=start.spaces[role],
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
