"""What computes a checkpoint's likelihoods: transformers, or the vLLM that will serve it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from quantpress.model.config import positions
from quantpress.runtime import atomic, environment
from quantpress_serve.vllm import vllm_version

# The distributions whose versions decide a score.
SCORING = ("lm_eval", "compressed-tensors", "torch", "transformers", "tokenizers", "datasets")

Backend = Literal["hf", "vllm"]


def backend_for(untruthful: str | None, asked: str, gpus: bool | None = None) -> tuple[Backend, str]:
    """The backend for a checkpoint of which transformers computes something else than vLLM (None: it does not), and
    why that one.

    `auto` takes the vLLM that will serve on a machine with GPUs. On a CPU it takes transformers, which needs no server
    and was the faster one where both were measured (docs/explanation/measurements.md), unless it would not compute what
    vLLM does. `gpus` says whether the machine has any that will score; None: this one will.
    """
    if asked in ("hf", "vllm"):
        return ("hf" if asked == "hf" else "vllm"), "asked for"
    has_gpus = bool(environment.gpus()) if gpus is None else gpus
    reason = untruthful or ("it is what serves on this machine's GPUs" if has_gpus else None)
    return ("vllm", reason) if reason else ("hf", "transformers computes what the checkpoint stores")


def context(model: Path, wanted: int) -> int:
    """Tokens of context for a model's folder: `wanted`, or what the model has, less the two that lm-eval's client of a
    server sets aside, so that both backends see the same.
    """
    longest = positions(atomic.read_json(model / "config.json"))
    return min(wanted, longest - 2) if longest else wanted


def versions(backend: Backend, vllm: Path | None) -> dict[str, str]:
    """Versions of everything that decides a score."""
    known = environment.versions(SCORING)
    if backend == "vllm" and vllm:
        known["vllm"] = vllm_version(vllm)
    return known
