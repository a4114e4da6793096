"""The bench stage: candidate and baseline served side by side, loaded in turns, compared pair by pair."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quantpress.artifact import manifest, truth
from quantpress.artifact.manifest import Artifact
from quantpress.errors import CapabilityError, QuantpressError, StageError
from quantpress.model.source import Model
from quantpress.plan import arithmetic, sizes
from quantpress.runtime import atomic, console, environment, locks
from quantpress_serve.bench import chat, interference, likelihoods, summary
from quantpress_serve.bench.likelihoods import Likelihoods
from quantpress_serve.bench.load import Cell, Generator
from quantpress_serve.bench.subject import Sides, Subject
from quantpress_serve.probes import asking
from quantpress_serve.server import memory, server
from quantpress_serve.server.server import Launch, Server
from quantpress_serve.vllm import serving_environment, vllm_version
from quantpress_serve.workload import engine, workload
from quantpress_serve.workload.workload import Engine, Workload


def check_engine(load: Workload, sides: Sides) -> None:
    """Raises InputError for an engine setting that the installed vLLM does not take. It is asked only if any is set."""
    if load.engine == Engine(max_model_len=load.engine.max_model_len) or sides.vllm_url:
        return
    vllm = sides.check()
    try:
        known = asking.arguments(vllm)
    except CapabilityError as error:
        console.warn(f"{error.message}; the workload's engine settings go to it unchecked")
        return
    engine.check(load.engine, known, vllm_version(vllm))


@dataclass(frozen=True)
class Beforehand:
    """What is known before a server is asked: the type for transformers (arithmetic), and why the engine is inexact."""

    compute_dtype: str = "auto"
    inexact: str | None = None


def bench(
    artifact: Artifact,
    model: Model,
    load: Workload,
    sides: Sides,
    fresh: bool = False,
    known: Beforehand = Beforehand(),
) -> dict[str, Any]:
    """Measures checkpoint and model under a workload and writes throughput.json, unless that was done before.

    `fresh` measures in any case. Raises StageError if a server or the load generator fails; what was measured until
    then is kept, marked as incomplete.
    """
    record = artifact.finished()
    subject = Subject(
        *(artifact.name, artifact.folder, record.digest, artifact.checkpoint.resolve(), model),
        model_digest=model.identity().digest,
        weight_bytes=record.bytes.model + record.bytes.checkpoint,
        compute_dtype=arithmetic.compute_dtype(model, known.compute_dtype),
        untruthful=truth.untruthful(record.recipe),
        inexact=known.inexact,
    )
    result = measure(subject, load, sides, fresh)
    if served := result.get("served"):  # none in results of earlier versions
        truth.mark_scores(artifact, served)
    return result


def measure(subject: Subject, load: Workload, sides: Sides, fresh: bool) -> dict[str, Any]:
    vllm = sides.check()
    inputs = _inputs(subject, load, vllm, sides)
    known = subject.results.known(load.name)
    if known and known.get("complete") and known["inputs"] == inputs and not (fresh or sides.vllm_url):
        with locks.lock(subject.folder):
            subject.results.to_front(load.name)
        console.say(f"✓ {subject.name} under {load.name}: measured before, nothing to do (--fresh measures again)")
        return known
    if known and (changed := manifest.differences(known["inputs"], inputs)):
        console.say(f"  {subject.name} is measured again; changed: {', '.join(changed)}")
    subject.folder.mkdir(parents=True, exist_ok=True)
    with locks.lock(subject.folder), atomic.staging(subject.folder / "bench") as staged, ExitStack() as stack:
        # Everything up first, then the load in turns: whatever else the machine does hits both sides alike.
        before = interference.on_gpu()
        scored = _scored(subject)
        servers = stack.enter_context(_servers(subject, load, sides, vllm))
        served = _served(subject, servers, scored)
        answers = chat.check(servers, served) if subject.weights == "real" else {}
        log = subject.logs / f"{subject.name}.bench.log"
        log.unlink(missing_ok=True)
        generator = Generator(vllm, load, staged, log, interference.on_gpu() - before)
        run = Run(generator, servers)
        run.measure()
        result = _result(subject, inputs, run, answers) | {"served": served}
        path = _write(subject, result)
    if run.lost:
        raise StageError(
            f"{run.lost.message}; {len(run.cells)} finished cells are in {path}, marked as incomplete",
            hint=run.lost.hint,
            log=run.lost.log,
        )
    return result


def _scored(subject: Subject) -> dict[str, Likelihoods] | str:
    """Both sides' likelihoods of a fixed text by transformers, or why there are none; before a server takes memory."""
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


def _served(subject: Subject, servers: dict[str, Server], scored: dict[str, Likelihoods] | str) -> dict[str, Any]:
    """Whether the engine computes what transformers scored; it is said here, whichever it is."""
    if isinstance(scored, str):
        return likelihoods.unknown(scored)
    found = likelihoods.check(servers, scored, subject.inexact)
    say = console.warn if found["verdict"] == truth.DIFFERS else console.say
    say(likelihoods.sentence(found))
    return found


@dataclass
class Run:
    """The cells of one bench, and what ended it early: a failure (a lost server), or a load that was enough."""

    generator: Generator
    servers: dict[str, Server]
    cells: list[dict[str, Any]] = field(default_factory=list)
    lost: StageError | None = None
    saturated: dict[str, Any] | None = None
    base: int = field(default_factory=lambda: secrets.randbelow(2**31))

    def measure(self) -> None:
        """All cells, the two sides of a pair back to back, the one that goes first alternating from round to round."""
        load = self.generator.workload
        levels = load.levels
        try:
            for number in range(load.rounds):
                for index, level in enumerate(levels):
                    self._pair(level, number)
                    if number == 0 and load.until_saturated and self._enough(levels, index):
                        levels = levels[: index + 1]
                        break
        except StageError as error:
            if not self.cells:
                raise
            self.lost = error

    def _pair(self, level: workload.Level, number: int) -> None:
        roles = list(self.servers) if number % 2 == 0 else list(reversed(self.servers))
        for role in roles:
            others = [one for name, one in self.servers.items() if name != role]
            cell = Cell(role, level, number, self.base)
            self.cells.append(self.generator.measure(self.servers[role], cell, others))

    def _enough(self, levels: list[workload.Level], index: int) -> bool:
        before, now = levels[index - 1].concurrency, levels[index].concurrency
        if not index or before is None or now is None:
            return False
        gained = summary.growth(self.cells, before, now)
        if gained > summary.SATURATED:
            return False
        left_out = [level.concurrency for level in levels[index + 1 :]]
        self.saturated = {"concurrency": now, "gained": gained, "left_out": left_out}
        console.say(
            f"  saturated: from concurrency {before} to {now} output tokens/s changed by {gained:+.1%} at best"
            + (f"; {', '.join(map(str, left_out))} are left out" if left_out else "")
        )
        return True


def _result(subject: Subject, inputs: dict[str, Any], run: Run, answers: dict[str, Any]) -> dict[str, Any]:
    vllm = run.generator.vllm
    first = {role: given[0] for role, given in answers.items()}
    return {
        "schema_version": manifest.SCHEMA_VERSION,
        "checkpoint_digest": subject.digest,
        "weights": subject.weights,
        "weight_bits": _weight_bits(subject.candidate),
        "complete": run.lost is None,
        "ended": run.lost.message if run.lost else None,
        "inputs": inputs,
        "workload": inputs["workload"],
        "vllm": {"executable": str(vllm), "version": vllm_version(vllm)},
        "environment": inputs["environment"],
        "servers": {role: _about(one, subject) for role, one in run.servers.items()},
        "answers": {role: {"question": one["question"], "answer": one["answer"]} for role, one in first.items()},
        "chat": answers or None,
        "seed_base": run.base,
        "cells": run.cells,
        "saturated": run.saturated,
        "summary": summary.summarize(run.cells),
        "machine": environment.machine().dump(),
    }


def _weight_bits(folder: Path) -> list[int]:
    """Bits of the weights of each of the checkpoint's schemes, as its config names them."""
    config = atomic.read_json(folder / "config.json").get("quantization_config") or {}
    groups = (config.get("config_groups") or {}).values()
    return sorted({group["weights"]["num_bits"] for group in groups if group.get("weights")})


def _about(one: Server, subject: Subject) -> dict[str, Any]:
    """A server's command, and what it told of itself while it started."""
    about = {name: value for name, value in one.about.items() if name != "started"}
    if about.get("weights_gib") is None and one.running is not None and subject.weights == "real":
        size = sum(path.stat().st_size for path in one.path.glob("*.safetensors"))
        about |= {"weights_gib": round(size / 2**30, 3), "weights_gib_from": "files"}  # a CPU's vLLM does not tell
    return {"command": one.command, "startup_s": one.startup_s, **about}


def _write(subject: Subject, result: dict[str, Any]) -> Path:
    """Writes the result; an incomplete one never takes a complete one's place."""
    results = subject.results
    there = results.current(results.front)
    if not result["complete"] and there and there["complete"]:
        path = results.front.with_name("throughput-incomplete.json")
        atomic.write_json(path, result)
        return path
    results.put(result)
    return results.front


def _inputs(subject: Subject, load: Workload, vllm: Path, sides: Sides) -> dict[str, Any]:
    """Everything that a measurement depends on and that can be named."""
    return {
        "checkpoint": subject.digest,
        "model": subject.model_digest,
        "weights": subject.weights,
        "workload": workload.record(load),
        "vllm": {"executable": str(vllm.resolve()), "version": vllm_version(vllm)},
        "servers": {"candidate": sides.vllm_url, "baseline": sides.baseline_url},
        "environment": serving_environment(),
        "machine": environment.machine().dump(),
    }


@contextmanager
def _servers(subject: Subject, load: Workload, sides: Sides, vllm: Path) -> Iterator[dict[str, Server]]:
    """The candidate's server and, unless only a foreign candidate was named, the baseline's."""
    model = subject.model
    paths = {"candidate": (subject.candidate, subject.name), "baseline": (model.path, model.name)}
    with ExitStack() as stack:
        if sides.vllm_url:
            urls = {"candidate": sides.vllm_url, "baseline": sides.baseline_url}
            found = {role: server.attach(url, paths[role][0]) for role, url in urls.items() if url}
            _warn_of_caches(found)
            yield found
            return
        space = None
        if not environment.gpus():
            space = memory.kv_space(model.config, load, subject.weight_bytes, len(paths))
        found = {}
        for role, (path, name) in paths.items():
            launch = Launch(
                *(vllm, path.resolve(), name, load.engine, _context(load, model), load.prefix_caching),
                memory_share=1 / len(paths),
                trust_remote_code=model.trust_remote_code,
                tokenizer=subject.tokenizer,
                load_format="dummy" if subject.weights == "dummy" else None,
                kv_space_gib=space,
            )
            log = subject.logs / f"{subject.name}.vllm-{role}.log"
            port = sides.port if role == "candidate" else None
            found[role] = stack.enter_context(server.serving(launch, log, port))
        yield found


def _context(load: Workload, model: Model) -> int:
    """Tokens of context: what the load needs, and no less than the likelihoods need if the model has as much."""
    if load.engine.max_model_len:
        return load.engine.max_model_len
    least = likelihoods.WINDOW + 1
    return max(load.model_len, min(least, sizes.positions(model.config) or least))


def _warn_of_caches(servers: dict[str, Server]) -> None:
    for role, one in servers.items():
        if one.about.get("prefix_caching"):
            console.warn(f"the {role}'s server caches prefixes; fresh prompts keep that out of the figures, mostly")
