"""What the report takes from layer_errors.json."""

from __future__ import annotations

from quantpress.artifact.layer_errors import layer_errors_of
from quantpress.artifact.manifest import Artifact
from quantpress.artifact.truth import rotations
from quantpress.errors import StageError
from quantpress.report.facts.fields import Data

ROTATED = "its layers are rotated, so they cannot be compared one by one"


def known(artifact: Artifact, record: Data) -> tuple[Data | None, str | None]:
    """What was measured of the checkpoint of this manifest, or why there is nothing."""
    if rotated(record):
        return None, ROTATED
    try:
        measured = layer_errors_of(artifact, record["digest"])
    except StageError as error:
        return None, error.message
    return ({"errors": measured.errors, "tokens": measured.tokens}, None) if measured else (None, "not measured")


def rotated(record: Data) -> bool:
    """Whether its layers cannot be compared one by one: rotated ones hand on something else than the model's, whether
    the rotations are folded into the weights or applied while serving."""
    return bool(rotations(record["recipe"]))
