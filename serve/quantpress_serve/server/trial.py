"""Whether a vLLM serves a checkpoint here: it is loaded and asked once, for nothing less shows it."""

from __future__ import annotations

from pathlib import Path

from quantpress.errors import CapabilityError, StageError
from quantpress.model.config import positions
from quantpress.model.source import Model
from quantpress_serve.server import devices, server
from quantpress_serve.server.server import Launch
from quantpress_serve.vllm import vllm_version
from quantpress_serve.workload.engine import Engine

_CONTEXT = 256  # tokens
_PROMPT = "The capital of France is"


def require_served(checkpoint: Model, name: str, vllm: Path, engine: Engine, log: Path) -> str:
    """The version of the vLLM that served it. Raises CapabilityError, with vLLM's own reason, if it does not."""
    launch = Launch(
        vllm=vllm,
        path=checkpoint.path,
        name=name,
        engine=engine,
        devices=devices.for_one(engine),
        model_len=min(_CONTEXT, positions(checkpoint.config) or _CONTEXT),
        trust_remote_code=checkpoint.trust_remote_code,
        kv_space_gib=1,
    )
    try:
        with server.serving(launch, log) as up:
            try:
                up.ask("/v1/completions", {"prompt": _PROMPT, "max_tokens": 4, "temperature": 0})
            except (OSError, ValueError) as error:
                up.require_healthy()
                raise StageError(f"it gives no answer: {error}") from error
    except StageError as error:
        raise CapabilityError(
            f"vLLM {vllm_version(vllm)} does not serve {checkpoint.path} here: {error.message}",
            hint="name another vLLM with --vllm, or take it without asking vLLM: --target any",
            log=log,
        ) from error
    return vllm_version(vllm)
