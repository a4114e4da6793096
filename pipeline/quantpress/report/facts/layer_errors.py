"""What the report takes from layer_errors.json."""

from __future__ import annotations

from quantpress.artifact.layer_errors import layer_errors_of
from quantpress.artifact.manifest import Artifact, Manifest
from quantpress.errors import StageError
from quantpress.recipe.truthful import rotations
from quantpress.report.facts.data import Layers

ROTATED = "its layers are rotated, so they cannot be compared one by one"


def known(artifact: Artifact, record: Manifest) -> tuple[Layers | None, str | None]:
    """What was measured of the checkpoint of this manifest, or why there is nothing."""
    if rotated(record):
        return None, ROTATED
    try:
        measured = layer_errors_of(artifact, record.digest)
    except StageError as error:
        return None, error.message
    return (Layers(errors=measured.errors, tokens=measured.tokens), None) if measured else (None, "not measured")


def rotated(record: Manifest) -> bool:
    """Whether its layers cannot be compared one by one: rotated ones hand on something else than the model's, whether
    the rotations are folded into the weights or applied while serving."""
    return bool(rotations(record.recipe))
