"""Measures layer_errors.json: how far each decoder layer of a checkpoint is from the model's."""

from __future__ import annotations

from quantpress.artifact import manifest
from quantpress.artifact.manifest import Artifact
from quantpress.model.source import Model
from quantpress.quantize.stage import DECISIVE
from quantpress.report.facts.layer_errors import RESULT, known, rotated
from quantpress.runtime import atomic, environment, locks, worker


def measure(artifact: Artifact, model: Model) -> None:
    """Writes layer_errors.json unless it is there. Holds both models in memory at 32 bits a weight.

    Raises CapabilityError for lack of memory, StageError if transformers fails.
    """
    record = artifact.finished()
    if known(artifact, record.dump())[0] or rotated(record.dump()):
        return
    job = {
        "model": str(model.path),
        "checkpoint": str(artifact.checkpoint),
        "trust_remote_code": model.trust_remote_code,
    }
    log = artifact.folder.parent / "logs" / f"{artifact.name}.layers.log"
    log.unlink(missing_ok=True)
    with locks.lock(artifact.folder), atomic.staging(artifact.folder / "layers") as staged:
        title = f"comparing {artifact.name} with the model, layer by layer"
        result = worker.call_worker("quantpress_evaluate.layer_errors_worker", job, staged, title, log)
        result |= {"schema_version": manifest.SCHEMA_VERSION, "checkpoint_digest": record.digest}
        result |= {"machine": environment.machine().dump(), "versions": environment.versions(DECISIVE)}
        atomic.write_json(artifact.folder / f"{RESULT}.json", result)
