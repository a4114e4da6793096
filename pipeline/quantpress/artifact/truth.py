"""Whether what was scored is what is served: what transformers leaves out, and what an engine was found to compute."""

from __future__ import annotations

from typing import Any

from quantpress.artifact.accuracy import TRANSFORMERS_ONLY, Accuracy, Gate
from quantpress.artifact.manifest import Artifact
from quantpress.artifact.results import results_of
from quantpress.artifact.served import DIFFERS, SAME, Served, Side
from quantpress.artifact.throughput import Throughput

__all__ = ["DIFFERS", "SAME", "TRANSFORMERS_ONLY", "Served", "Side"]

# SpinQuant's rotations that are applied while serving; the others are folded into the weights, where whatever loads the
# checkpoint computes them.
_ONLINE = {"R3", "R4"}


def rotations(recipe: dict[str, Any]) -> dict[str, bool]:
    """The modifiers of this (resolved) recipe that rotate, each with whether any of its rotations is applied while
    serving and not folded into the weights."""
    bodies = {name: body for modifier in recipe["modifiers"] for name, body in modifier.items()}
    found = {"quip": True} if "quip" in bodies else {}  # it always rotates the inputs or outputs themselves
    if "spinquant" in bodies:
        found["spinquant"] = bool(_ONLINE & set(bodies["spinquant"].get("rotations", ())))
    return found


def untruthful(recipe: dict[str, Any]) -> str | None:
    """Why transformers does not compute what vLLM will for this (resolved) recipe's checkpoint, or None."""
    for name, online in rotations(recipe).items():
        if online:
            return f"transformers leaves out the rotations of {name} that are applied while serving"
    for modifier in recipe["modifiers"]:
        for body in modifier.values():
            if any("FP4" in str(scheme).upper() for scheme in _schemes(body)) or _has_float4(body):
                return "transformers only imitates 4-bit floats"
    return None


def _schemes(body: dict[str, Any]) -> list[Any]:
    return [body.get("scheme"), *(group.get("scheme") for group in body.get("groups") or [])]


def _has_float4(body: dict[str, Any]) -> bool:
    weights = [part.get("weights") for part in (body, *(body.get("groups") or []))]
    return any(args and args.get("type") == "float" and args.get("num_bits") == 4 for args in weights)


def served_of(artifact: Artifact) -> Served | None:
    """The newest comparison of this checkpoint's engine with its scores, if a bench made one."""
    measured = results_of(artifact, Throughput).all()
    return next((result.served for result in measured if result.served), None)


def mark(score: Accuracy, served: Served | None) -> Accuracy:
    """An accuracy result with what is known of the engine: gates that transformers passed hold for it only if the
    engine computes the same. Scores by the engine itself are left alone."""
    by_engine = score.settings.backend == "vllm"
    differs = served is not None and served.verdict == DIFFERS and not by_engine
    return score.model_copy(update={"served": served, "gates": [_marked(gate, differs) for gate in score.gates]})


def _marked(gate: Gate, differs: bool) -> Gate:
    if gate.decision not in ("pass", TRANSFORMERS_ONLY):
        return gate
    return gate.model_copy(update={"decision": TRANSFORMERS_ONLY if differs else "pass"})


def mark_scores(artifact: Artifact, served: Served) -> None:
    """Marks every accuracy result of this checkpoint, after a bench has compared."""
    scored = results_of(artifact, Accuracy)
    for path in scored.files():
        if (score := scored.current(path)) and (marked := mark(score, served)) != score:
            marked.save(path)
