"""Of which recipes' checkpoints transformers computes something else than vLLM will. Recipes here are resolved ones, as
manifests hold them."""

from __future__ import annotations

from typing import Any

from quantpress.recipe.modifiers import Modifier, Quantizes


def rotations(recipe: dict[str, Any]) -> dict[str, bool]:
    """The modifiers that rotate, each with whether any of its rotations is applied while serving.

    The others are folded into the weights, where whatever loads the checkpoint computes them.
    """
    return {modifier.name: modifier.body.rotates_online for modifier in _modifiers(recipe) if modifier.body.rotates}


def untruthful(recipe: dict[str, Any]) -> str | None:
    """Why transformers does not compute what vLLM will for this recipe's checkpoint, or None."""
    for name, online in rotations(recipe).items():
        if online:
            return f"transformers leaves out the rotations of {name} that are applied while serving"
    for modifier in _modifiers(recipe):
        groups = modifier.body.all_groups if isinstance(modifier.body, Quantizes) else []
        if any("FP4" in (group.scheme or "") for group in groups):
            return "transformers only imitates 4-bit floats"
    return None


def _modifiers(recipe: dict[str, Any]) -> list[Modifier]:
    return [Modifier.model_validate(entry) for entry in recipe["modifiers"]]
