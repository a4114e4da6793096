"""The bench stage: candidate and baseline served side by side, loaded in turns, compared pair by pair."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantpress import environment, files, manifest, process
from quantpress.console import Console
from quantpress.errors import CapabilityError, InputError, StageError
from quantpress.manifest import Artifact
from quantpress.model import Model
from quantpress_serve import chat, load, server
from quantpress_serve.load import Cell
from quantpress_serve.server import Launch, Server
from quantpress_serve.workload import Engine, Workload

# Ratios within this distance of 1 are not told apart from no difference; pairs of one server with itself stay inside.
INDIFFERENCE = 0.03
MIN_PAIRS = 3
DEFAULT_PORT = 8000
TRACKED = ("output_throughput", "total_token_throughput", "request_throughput")
LATENCIES = ("median_ttft_ms", "p99_ttft_ms", "median_tpot_ms", "p99_tpot_ms", "median_itl_ms", "median_e2el_ms")


@dataclass(frozen=True)
class Sides:
    """How to reach the two servers: an executable to start them with, or URLs of servers that run already."""

    vllm: str | None = None
    port: int | None = None
    vllm_url: str | None = None
    baseline_url: str | None = None

    def check(self) -> Path:
        """The vllm executable (it also generates the load). Raises CapabilityError, or InputError for a taken port."""
        if self.port is not None:
            server.require_free(self.port)
        if self.baseline_url and not self.vllm_url:
            raise InputError("--baseline-url goes with --vllm-url", hint="name the candidate's server too")
        for url in filter(None, (self.vllm_url, self.baseline_url)):
            server.attach(url, Path())
        return environment.find_vllm(self.vllm)


def bench(
    artifact: Artifact, model: Model, workload: Workload, sides: Sides, console: Console, fresh: bool = False
) -> dict[str, Any]:
    """Measures checkpoint and model under `workload` and writes throughput.json, unless that was done before.

    `fresh` measures in any case. Raises StageError if a server or the load generator fails.
    """
    vllm = sides.check()
    record = artifact.finished()
    inputs = _inputs(record, model, workload, vllm, sides)
    known = artifact.result("throughput")
    if known and known["inputs"] == inputs and not (fresh or sides.vllm_url):
        console.say(f"✓ {artifact.name} under {workload.name}: measured before, nothing to do (--fresh measures again)")
        return known
    if known and (changed := manifest.differences(known["inputs"], inputs)):
        console.say(f"  {artifact.name} is measured again; changed: {', '.join(changed)}")
    logs = artifact.folder.parent / "logs"
    with files.lock(artifact.folder), files.staging(artifact.folder / "bench") as staged, ExitStack() as stack:
        # Everything up first, then the load in turns: whatever else the machine does hits both sides alike.
        servers = stack.enter_context(_servers(artifact, model, workload, sides, vllm, logs, console))
        answers = {role: chat.ask(one) for role, one in servers.items()}
        for role, answer in answers.items():
            console.say(f"  {role}: {answer['question']} -> {answer['answer']}")
        cells = _measure(vllm, servers, workload, staged, logs / f"{artifact.name}.bench.log", console)
        result = {
            "schema_version": manifest.SCHEMA_VERSION,
            "checkpoint_digest": record["digest"],
            "inputs": inputs,
            "workload": workload.model_dump(exclude_none=True),
            "vllm": {"executable": str(vllm), "version": environment.vllm_version(vllm)},
            "environment": environment.serving_environment(),
            "servers": {role: {"command": one.command, "startup_s": one.startup_s} for role, one in servers.items()},
            "answers": answers,
            "cells": cells,
            "summary": summarize(cells),
            "machine": environment.machine(),
        }
        files.write_json(artifact.folder / "throughput.json", result)
    return result


def _inputs(record: dict[str, Any], model: Model, workload: Workload, vllm: Path, sides: Sides) -> dict[str, Any]:
    """Everything that a measurement depends on and that can be named."""
    return {
        "checkpoint": record["digest"],
        "model": model.identity()["digest"],
        "workload": workload.model_dump(exclude_none=True),
        "vllm": {"executable": str(vllm.resolve()), "version": environment.vllm_version(vllm)},
        "servers": {"candidate": sides.vllm_url, "baseline": sides.baseline_url},
        "environment": environment.serving_environment(),
        "machine": environment.machine(),
    }


@contextmanager
def _servers(
    artifact: Artifact, model: Model, workload: Workload, sides: Sides, vllm: Path, logs: Path, console: Console
) -> Iterator[dict[str, Server]]:
    """The candidate's server and, unless only a foreign candidate was named, the baseline's."""
    paths = {"candidate": (artifact.checkpoint, artifact.name), "baseline": (model.path, model.name)}
    with ExitStack() as stack:
        if sides.vllm_url:
            urls = {"candidate": sides.vllm_url, "baseline": sides.baseline_url}
            yield {role: server.attach(url, paths[role][0]) for role, url in urls.items() if url}
            return
        found = {}
        for role, (path, name) in paths.items():
            launch = Launch(
                *(vllm, path.resolve(), name, workload.engine, workload.model_len, workload.prefix_caching),
                memory_share=1 / len(paths),
                trust_remote_code=model.trust_remote_code,
            )
            log = logs / f"{artifact.name}.vllm-{role}.log"
            port = sides.port if role == "candidate" else None
            found[role] = stack.enter_context(server.serving(launch, log, console, port))
        yield found


def _measure(
    vllm: Path, servers: dict[str, Server], workload: Workload, staged: Path, log: Path, console: Console
) -> list[dict[str, Any]]:
    """All cells, the two sides of a pair back to back, the one that goes first alternating from round to round."""
    log.unlink(missing_ok=True)
    cells = []
    for number, concurrency in itertools.product(range(workload.rounds), workload.concurrency):
        roles = list(servers) if number % 2 == 0 else list(reversed(servers))
        for role in roles:
            cell = Cell(role, concurrency, number)
            cells.append(load.measure(vllm, servers[role], workload, cell, staged, log, console))
    return cells


def summarize(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each concurrency: medians over rounds on both sides, and the ratio of output tokens/s pair by pair."""
    return [_summary(concurrency, cells) for concurrency in sorted({cell["concurrency"] for cell in cells})]


def _summary(concurrency: int, cells: list[dict[str, Any]]) -> dict[str, Any]:
    sides: dict[str, dict[int, dict[str, float]]] = {}
    for cell in cells:
        if cell["concurrency"] == concurrency:
            sides.setdefault(cell["role"], {})[cell["round"]] = cell["figures"]
    rows = {
        role: {name: statistics.median(figures[name] for figures in rounds.values()) for name in (*TRACKED, *LATENCIES)}
        for role, rounds in sides.items()
    }
    failed = int(sum(figures.get("failed", 0) for rounds in sides.values() for figures in rounds.values()))
    summary: dict[str, Any] = {"concurrency": concurrency, "failed_requests": failed, **rows}
    if "baseline" in sides:
        pairs = sorted(sides["candidate"].keys() & sides["baseline"].keys())
        speeds = [[sides[role][number]["output_throughput"] for role in ("candidate", "baseline")] for number in pairs]
        ratios = [own / base if base else 0.0 for own, base in speeds]
        summary |= {"ratios": ratios, "speedup": statistics.median(ratios), "verdict": verdict(ratios, failed)}
    return summary


def verdict(ratios: list[float], failed: int) -> str:
    """What the pairs show: `faster` or `slower` only where every pair says so by more than the indifference."""
    if failed:
        return "not comparable: requests failed"
    if len(ratios) < MIN_PAIRS:
        return f"no verdict: {len(ratios)} pairs, {MIN_PAIRS} needed"
    if min(ratios) > 1 + INDIFFERENCE:
        return "faster"
    if max(ratios) < 1 - INDIFFERENCE:
        return "slower"
    return "no difference shown"


def claim(port: int | None) -> int:
    """The port to serve on. Raises InputError if it is taken."""
    port = port or DEFAULT_PORT
    server.require_free(port)
    return port


def serve(artifact: Artifact, model: Model, vllm: Path, port: int, console: Console) -> None:
    """Serves the checkpoint in the foreground until interrupted. Raises StageError if vLLM fails."""
    artifact.finished()
    launch = Launch(
        *(vllm, artifact.checkpoint.resolve(), artifact.name, Engine(), None),
        prefix_caching=True,
        trust_remote_code=model.trust_remote_code,
    )
    console.say(f"serving {artifact.name} at http://{server.HOST}:{port}/v1 (Ctrl-C stops it)")
    with process.guarded(launch.command(port), None, environment.serving_environment()) as running:
        code = running.wait()
    if code == 127:
        raise CapabilityError(f"{vllm} cannot be started", hint="make setup, or name yours with VLLM=/path/to/vllm")
    if code != 0:
        raise StageError(f"vLLM ended with exit code {code}", hint="read what it printed above")
