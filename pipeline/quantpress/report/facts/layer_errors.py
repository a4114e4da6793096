"""layer_errors.json: how far each decoder layer of a checkpoint is from the model's, measured on request."""

from __future__ import annotations

from typing import Any

from quantpress.artifact.manifest import Artifact, readable
from quantpress.errors import StageError
from quantpress.report.facts.fields import Data, get

RESULT = "layer_errors"
# Transformers does not apply their rotations, and rotated layers hand on something else than the model's.
_ROTATIONS = {"spinquant", "quip"}
ROTATED = "its layers are rotated, so they cannot be compared one by one"


def known(artifact: Artifact, record: Data) -> tuple[Data | None, str | None]:
    """What was measured of this very checkpoint, or why there is nothing."""
    if rotated(record):
        return None, ROTATED
    try:
        with readable(artifact.folder):
            result: dict[str, Any] | None = artifact.result(RESULT)
            if result is None:
                return None, "not measured"
            return {"errors": [float(error) for error in result["errors"]], "tokens": int(result["tokens"])}, None
    except StageError as error:
        return None, error.message


def rotated(record: Data) -> bool:
    """Whether its layers cannot be compared one by one."""
    modifiers = get(record, "recipe", "modifiers", default=[])
    return any(_ROTATIONS & one.keys() for one in modifiers if isinstance(one, dict))
