"""Which checkpoints transformers does not compute as vLLM will."""

from typing import Any

import pytest

from quantpress.recipe import truthful


def spinquant(*rotations: str) -> dict[str, Any]:
    return {"modifiers": [{"spinquant": {"rotations": [*rotations]}}, {"rtn": {"scheme": "W8A8"}}]}


@pytest.mark.parametrize(
    ("recipe", "reason"),
    [
        (spinquant("R1", "R2"), None),
        (spinquant("R1", "R3"), "the rotations of spinquant that are applied while serving"),
        (spinquant("R4"), "the rotations of spinquant that are applied while serving"),
        ({"modifiers": [{"quip": {"rotations": ["v"]}}]}, "the rotations of quip that are applied while serving"),
        ({"modifiers": [{"rtn": {"scheme": "NVFP4"}}]}, "only imitates 4-bit floats"),
        ({"modifiers": [{"rtn": {"scheme": "W4A16"}}]}, None),
    ],
    ids=["folded", "R3", "R4", "quip", "float4", "plain"],
)
def test_what_transformers_does_not_compute(recipe: dict[str, Any], reason: str | None) -> None:
    """Rotations that are folded into the weights are computed by whatever loads them."""
    found = truthful.untruthful(recipe)
    assert found is None if reason is None else found and found.endswith(reason)
