"""Measures layer_errors.json: how far each decoder layer of a checkpoint is from the model's."""

from __future__ import annotations

from quantpress.adopt.computed import untruthful_of
from quantpress.artifact.layer_errors import LayerErrors, layer_errors_file
from quantpress.artifact.manifest import Artifact
from quantpress.model.source import Model, deciding_files
from quantpress.quantize.stage import DECISIVE
from quantpress.report.facts.layer_errors import known, rotated
from quantpress.runtime import atomic, console, digests, environment, locks
from quantpress_evaluate import workers


def measure(artifact: Artifact, model: Model) -> None:
    """Writes layer_errors.json unless it is there. Holds both models in memory at 32 bits a weight.

    Raises CapabilityError for lack of memory, StageError if transformers fails.
    """
    record = artifact.finished()
    if known(artifact, record)[0] or rotated(record):
        return
    if reason := untruthful_of(artifact) if record.adopted else None:
        console.warn(f"the layers of {artifact.name} are not compared one by one: {reason}")
        return
    job = workers.LayerErrorsJob(
        model=model.path, checkpoint=artifact.checkpoint, trust_remote_code=model.trust_remote_code
    )
    log = artifact.folder.parent / "logs" / f"{artifact.name}.layers.log"
    log.unlink(missing_ok=True)
    with locks.lock(artifact.folder), atomic.staging(artifact.folder / "layers") as staged:
        title = f"comparing {artifact.name} with the model, layer by layer"
        with digests.unchanged([*model.deciding_files(), *deciding_files(artifact.checkpoint)]):
            measured = workers.LAYER_ERRORS.run(job, staged, title, log)
        LayerErrors(
            checkpoint_digest=record.digest,
            errors=measured.errors,
            tokens=measured.tokens,
            machine=environment.machine(),
            versions=environment.versions(DECISIVE),
        ).save(layer_errors_file(artifact))
