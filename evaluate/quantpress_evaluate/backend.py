"""What computes a checkpoint's likelihoods: transformers, or the vLLM that will serve it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from quantpress import environment, files, sizes

Backend = Literal["hf", "vllm"]
_ROTATIONS = ("spinquant", "quip")


def choose(asked: str, recipe: dict[str, Any]) -> tuple[Backend, str]:
    """The backend for a checkpoint made by this (resolved) recipe, and why.

    `auto` takes transformers, which needs no server and was the faster one where both were measured
    (docs/explanation/measurements.md), unless it would not compute what vLLM does.
    """
    if asked in ("hf", "vllm"):
        return ("hf" if asked == "hf" else "vllm"), "asked for"
    reason = untruthful(recipe)
    return ("vllm", reason) if reason else ("hf", "transformers computes what the checkpoint stores")


def untruthful(recipe: dict[str, Any]) -> str | None:
    """Why transformers does not compute what vLLM will, or None."""
    for modifier in recipe["modifiers"]:
        for name, body in modifier.items():
            if name in _ROTATIONS:
                return f"transformers leaves out the rotations of {name} that are applied while serving"
            if any("FP4" in str(scheme).upper() for scheme in _schemes(body)) or _has_float4(body):
                return "transformers only imitates 4-bit floats"
    return None


def _schemes(body: dict[str, Any]) -> list[Any]:
    return [body.get("scheme"), *(group.get("scheme") for group in body.get("groups") or [])]


def _has_float4(body: dict[str, Any]) -> bool:
    weights = [part.get("weights") for part in (body, *(body.get("groups") or []))]
    return any(one and one.get("type") == "float" and one.get("num_bits") == 4 for one in weights)


def context(model: Path, wanted: int) -> int:
    """Tokens of context for a model's folder: `wanted`, or what the model has, less the two that lm-eval's client of a
    server sets aside, so that both backends see the same.
    """
    longest = sizes.positions(files.read_json(model / "config.json"))
    return min(wanted, longest - 2) if longest else wanted


def versions(backend: Backend, vllm: Path | None) -> dict[str, str]:
    """Versions of everything that decides a score."""
    found = environment.versions(environment.SCORING)
    if backend == "vllm" and vllm:
        found["vllm"] = environment.vllm_version(vllm)
    return found
