"""Making an artifact again from its manifest alone, and comparing the two byte for byte."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from quantpress.artifact import manifest
from quantpress.artifact.manifest import Artifact, Manifest
from quantpress.errors import InputError, StageError
from quantpress.model import headers
from quantpress.model.source import find_model
from quantpress.plan.resolve import plan_of
from quantpress.quantize import own_chats, streaming
from quantpress.quantize import stage as quantizing
from quantpress.quantize.workers import DISTANCE, Distance, DistanceJob
from quantpress.recipe.recipe import Recipe
from quantpress.runtime import atomic, disk, environment, locks
from quantpress.runtime.identity import Identity
from quantpress.runtime.records import Record

# What bits depend on beside the inputs that the digest covers.
_MACHINE = ("processor", "cores", "gpus", "system")


class Rebuilt(Record):
    """How a rebuilt checkpoint compares with the artifact's.

    `promised` says whether equal bits may be expected here at all, and `why_not_promised` which versions and parts of
    the machine are others; `differing_tensors` are those whose bytes differ, and `beyond_bound` those of them that
    differ by more than their bound. `same_calibration_tokens` where both have none, too.
    """

    artifact: str
    identical: bool
    promised: bool
    why_not_promised: list[str]
    differing_tensors: list[str]
    beyond_bound: dict[str, Distance]
    same_calibration_tokens: bool


def reproduce(artifact: Artifact, trust_remote_code: bool = False) -> Rebuilt:
    """Rebuilds the checkpoint beside the artifact, compares, and removes it again.

    Raises InputError if there is no manifest or an input is no longer what it says, StageError for a manifest that is
    damaged and for a rebuilt checkpoint that holds other tensors.
    """
    if not artifact.manifest_file.is_file():
        raise InputError(f"{artifact.folder} holds no manifest.json", hint="quantpress status lists the artifacts")
    known = artifact.finished()
    if known.adopted:
        raise InputError(
            f"{artifact.folder} was adopted from {known.adopted.source}: how it was made is not known here",
            hint=f"quantpress verify {artifact.folder} checks every byte",
        )

    # The inputs again, and whether they are the same.
    model = find_model(source_of(known.model), trust_remote_code, known.model.dequantized is not None)
    own_chats.restore(artifact.folder)
    plan = quantizing.prepared(
        plan_of(recipe_of(artifact, known), model), model, known.inputs.compute_dtype or "stored"
    )
    changed = manifest.differences(known.inputs.dump(), quantizing.inputs_of(plan, model).dump())
    decisive = [name for name in changed if not name.startswith("versions.")]
    if decisive:
        raise InputError(
            f"{artifact.folder} cannot be reproduced: {', '.join(decisive)} is no longer what it was",
            hint="restore these inputs, or quantize anew",
        )
    here, there = environment.machine().dump(), known.machine.dump()
    changed += [f"machine.{name}" for name in _MACHINE if here[name] != there[name]]

    # The checkpoint again.
    log = artifact.folder.parent / "logs" / f"{artifact.name}.reproduce.log"
    target = artifact.folder.with_name(f"{artifact.name}.reproduced")
    on_disk = streaming.stay_on_disk(plan, model, "auto")
    disk.require_space(artifact.folder, streaming.disk_bytes(plan, model, on_disk))
    with locks.lock(target), atomic.staging(target) as staged:
        made = quantizing.make_checkpoint(plan, model, staged, log, on_disk=on_disk)
        differing = differing_tensors(artifact.checkpoint, staged / "checkpoint")
        far = _too_far(artifact.checkpoint, staged, log) if differing else {}
    return Rebuilt(
        artifact=str(artifact.folder),
        identical=not differing,
        promised=not changed,
        why_not_promised=changed,
        differing_tensors=differing,
        beyond_bound=far,
        same_calibration_tokens=_fingerprint(made) == _fingerprint(known),
    )


def recipe_of(artifact: Artifact, known: Manifest) -> Recipe:
    """The resolved recipe of a manifest. Raises StageError for one that is damaged."""
    try:
        return Recipe.model_validate(known.recipe)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, ("recipe", *first["loc"])))
        raise StageError(
            f"{artifact.manifest_file} is damaged: {where}: {first['msg']}",
            hint=f"move {artifact.folder} away and quantize again",
        ) from error


def _fingerprint(known: Manifest) -> str | None:
    return known.calibration.fingerprint if known.calibration else None


def _too_far(checkpoint: Path, staged: Path, log: Path) -> dict[str, Distance]:
    """The tensors that differ by more than their bound (distance_worker states it), with distance and bound."""
    job = DistanceJob(one=checkpoint.resolve(), other=(staged / "checkpoint").resolve())
    compared = DISTANCE.run(job, staged, "comparing what differs", log).tensors
    # Not `>`: a distance that is no number is within no bound.
    return {name: row for name, row in compared.items() if not row.distance <= row.bound}


def source_of(model: Identity) -> str:
    """The model as it was named, a hub model at the commit that was used."""
    on_the_hub = model.revision and not model.source.endswith(".gguf")
    return f"{model.source.partition('@')[0]}@{model.revision}" if on_the_hub else model.source


def differing_tensors(one: Path, other: Path) -> list[str]:
    """Names of tensors whose bytes, type or shape differ. Raises StageError if the two hold different tensors."""
    tensors, others = headers.digests(one), headers.digests(other)
    if tensors.keys() != others.keys():
        odd = sorted(tensors.keys() ^ others.keys())[:3]
        raise StageError(f"the rebuilt checkpoint holds other tensors: {odd}", hint="read the log of the rebuild")
    return sorted(name for name in tensors if tensors[name] != others[name])
