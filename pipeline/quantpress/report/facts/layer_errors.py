"""layer_errors.json: how far each decoder layer of a checkpoint is from the model's, measured on request."""

from __future__ import annotations

from typing import Any

from quantpress.artifact import manifest
from quantpress.artifact.manifest import Artifact, readable
from quantpress.errors import StageError
from quantpress.model.source import Model
from quantpress.report.facts.fields import Data, get
from quantpress.runtime import environment, files, process
from quantpress.runtime.console import Console

RESULT = "layer_errors"
# Transformers does not apply their rotations, and rotated layers hand on something else than the model's.
_ROTATIONS = {"spinquant", "quip"}
ROTATED = "its layers are rotated, so they cannot be compared one by one"


def known(artifact: Artifact, record: Data) -> tuple[Data | None, str | None]:
    """What was measured of this very checkpoint, or why there is nothing."""
    if _rotated(record):
        return None, ROTATED
    try:
        with readable(artifact.folder):
            result: dict[str, Any] | None = artifact.result(RESULT)
            if result is None:
                return None, "not measured"
            return {"errors": [float(error) for error in result["errors"]], "tokens": int(result["tokens"])}, None
    except StageError as error:
        return None, error.message


def _rotated(record: Data) -> bool:
    modifiers = get(record, "recipe", "modifiers", default=[])
    return any(_ROTATIONS & one.keys() for one in modifiers if isinstance(one, dict))


def measure(artifact: Artifact, model: Model, console: Console) -> None:
    """Writes layer_errors.json unless it is there. Holds both models in memory at 32 bits a weight.

    Raises CapabilityError for lack of memory, StageError if transformers fails.
    """
    record = artifact.finished()
    if known(artifact, record)[0] or _rotated(record):
        return
    job = {
        "model": str(model.path),
        "checkpoint": str(artifact.checkpoint),
        "trust_remote_code": model.trust_remote_code,
    }
    log = artifact.folder.parent / "logs" / f"{artifact.name}.layers.log"
    log.unlink(missing_ok=True)
    with files.lock(artifact.folder), files.staging(artifact.folder / "layers") as staged:
        title = f"comparing {artifact.name} with the model, layer by layer"
        result = process.call_worker("quantpress.report.layer_errors_worker", job, staged, console, title, log)
        result |= {"schema_version": manifest.SCHEMA_VERSION, "checkpoint_digest": record["digest"]}
        result |= {"machine": environment.machine(), "versions": environment.versions(environment.DECISIVE)}
        files.write_json(artifact.folder / f"{RESULT}.json", result)
