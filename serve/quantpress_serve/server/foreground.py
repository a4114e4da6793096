"""A server in the foreground, for people: `quantpress serve`."""

from __future__ import annotations

import os
from pathlib import Path

from quantpress.artifact.manifest import Artifact
from quantpress.errors import CapabilityError, StageError
from quantpress.model.source import Model
from quantpress.runtime import console, environment, process
from quantpress_serve import surroundings
from quantpress_serve.server import devices, memory, server
from quantpress_serve.server.server import Launch
from quantpress_serve.workload.engine import Engine


def serve(artifact: Artifact, model: Model, vllm: Path, port: int, engine: Engine) -> None:
    """Serves the checkpoint in the foreground until interrupted. Raises StageError if vLLM fails."""
    record = artifact.finished()
    launch = Launch(
        vllm=vllm,
        path=artifact.checkpoint.resolve(),
        name=artifact.name,
        engine=engine,
        devices=devices.for_one(engine),
        model_len=engine.max_model_len or "auto",  # the whole context, or what of it fits
        prefix_caching=True,
        trust_remote_code=model.trust_remote_code,
        kv_space_gib=None if environment.gpus() else memory.kv_space_alone(record.bytes.checkpoint),
    )
    # People ask this server, not we: the key by which they guard it is theirs to set.
    changes = surroundings.of_server(launch.environment(), for_people=True)
    guarded = " with the key in VLLM_API_KEY" if os.environ.get("VLLM_API_KEY") else ""
    console.say(f"serving {artifact.name} at http://{server.HOST}:{port}/v1{guarded} (Ctrl-C stops it)")
    with process.guarded(launch.command(port), None, changes) as running:
        code = running.wait()
    if code == 127:
        raise CapabilityError(f"{vllm} cannot be started", hint="make setup, or name yours with VLLM=/path/to/vllm")
    if code != 0:
        raise StageError(f"vLLM ended with exit code {code}", hint="read what it printed above")
