"""Whether what was scored is what is served: what transformers leaves out, and what an engine was found to compute."""

from __future__ import annotations

from typing import Any

from quantpress.artifact import results
from quantpress.artifact.manifest import Artifact
from quantpress.artifact.served import DIFFERS, SAME, Served, Side
from quantpress.artifact.throughput import Throughput
from quantpress.runtime import atomic

__all__ = ["DIFFERS", "SAME", "TRANSFORMERS_ONLY", "Served", "Side"]

# How a gate is decided that transformers passed, while the engine does not compute what transformers does.
TRANSFORMERS_ONLY = "transformers only"
_ROTATIONS = ("spinquant", "quip")


def untruthful(recipe: dict[str, Any]) -> str | None:
    """Why transformers does not compute what vLLM will for this (resolved) recipe's checkpoint, or None."""
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


def served_of(artifact: Artifact) -> Served | None:
    """The newest comparison of this checkpoint's engine with its scores, if a bench made one."""
    measured = results.results_of(artifact, Throughput).all()
    return next((result.served for result in measured if result.served), None)


def mark(score: dict[str, Any], served: Served | None) -> dict[str, Any]:
    """An accuracy result with what is known of the engine: gates that transformers passed hold for it only if the
    engine computes the same. Scores by the engine itself are left alone."""
    by_engine = score["settings"]["backend"] == "vllm"
    differs = served is not None and served.verdict == DIFFERS and not by_engine
    return score | {
        "served": served.dump() if served else None,
        "gates": [_read(gate, differs) for gate in score["gates"]],
    }


def _read(gate: dict[str, Any], differs: bool) -> dict[str, Any]:
    passed = gate["decision"] in ("pass", TRANSFORMERS_ONLY)
    return gate | {"decision": TRANSFORMERS_ONLY if differs else "pass"} if passed else gate


def mark_scores(artifact: Artifact, served: Served) -> None:
    """Marks every accuracy result of this checkpoint, after a bench has compared."""
    scored = results.of(artifact, "accuracy")
    for path in scored.files():
        if (score := scored.current(path)) and (marked := mark(score, served)) != score:
            atomic.write_json(path, marked)
