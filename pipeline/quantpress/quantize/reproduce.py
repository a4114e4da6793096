"""Making an artifact again from its manifest alone, and comparing the two byte for byte."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from quantpress.artifact import manifest
from quantpress.artifact.manifest import Artifact
from quantpress.errors import InputError, StageError
from quantpress.model import headers
from quantpress.model.source import find_model
from quantpress.plan.resolve import plan_of
from quantpress.quantize import stage as quantizing
from quantpress.recipe.recipe import Recipe
from quantpress.runtime import atomic, disk, environment, locks, worker

# What bits depend on beside the inputs that the digest covers.
_MACHINE = ("processor", "cores", "gpus", "system")


def reproduce(artifact: Artifact, trust_remote_code: bool = False) -> dict[str, Any]:
    """Rebuilds the checkpoint beside the artifact, compares, and removes it again.

    Returns `identical`, the tensors that differ, those that differ by more than their bound, and `promised`: whether
    equal bits may be expected here at all (same versions, same kind of machine). Raises InputError if an input is no
    longer what the manifest says.
    """
    if not artifact.manifest_file.is_file():
        raise InputError(f"{artifact.folder} holds no manifest.json", hint="quantpress status lists the artifacts")
    record = artifact.finished()
    with manifest.readable(artifact.folder):
        recipe = Recipe.model_validate(record["recipe"])
        source = _source(record["model"])
    model = find_model(source, trust_remote_code)
    plan = quantizing.prepared(plan_of(recipe, model), model, record["inputs"].get("compute_dtype", "stored"))
    inputs = quantizing.inputs_of(plan, model)
    changed = manifest.differences(record["inputs"], inputs)
    decisive = [name for name in changed if not name.startswith("versions.")]
    if decisive:
        raise InputError(
            f"{artifact.folder} cannot be reproduced: {', '.join(decisive)} is no longer what it was",
            hint="restore these inputs, or quantize anew",
        )
    machine = environment.machine().dump()
    here = [f"machine.{name}" for name in _MACHINE if machine[name] != record["machine"][name]]
    log = artifact.folder.parent / "logs" / f"{artifact.name}.reproduce.log"
    target = artifact.folder.with_name(f"{artifact.name}.reproduced")
    disk.require_space(artifact.folder, int(plan.weight_bytes * 1.5))
    with locks.lock(target), atomic.staging(target) as staged:
        made = quantizing.make(plan, model, staged, log)
        differing = compare(artifact.checkpoint, staged / "checkpoint")
        far = _too_far(artifact.checkpoint, staged, log) if differing else {}
    return {
        "artifact": str(artifact.folder),
        "identical": not differing,
        "promised": not changed and not here,
        "why_not_promised": changed + here,
        "differing_tensors": differing,
        "beyond_bound": far,
        "same_calibration_tokens": _fingerprint(made) == _fingerprint(record),
    }


def _fingerprint(record: dict[str, Any]) -> str | None:
    return record["calibration"]["fingerprint"] if record["calibration"] else None


def _too_far(checkpoint: Path, staged: Path, log: Path) -> dict[str, dict[str, float]]:
    """The tensors that differ by more than their bound (distance_worker states it), with distance and bound."""
    job = {"one": str(checkpoint.resolve()), "other": str((staged / "checkpoint").resolve())}
    found = worker.call_worker("quantpress.quantize.distance_worker", job, staged, "comparing what differs", log)
    return {name: row for name, row in found["tensors"].items() if not row["distance"] <= row["bound"]}


def _source(model: dict[str, Any]) -> str:
    """The model as it was named, a hub model at the commit that was used."""
    source, revision = str(model["source"]), model["revision"]
    on_the_hub = revision and not source.endswith(".gguf")
    return f"{source.partition('@')[0]}@{revision}" if on_the_hub else source


def compare(one: Path, other: Path) -> list[str]:
    """Names of tensors whose bytes, type or shape differ. Raises StageError if the two hold different tensors."""
    tensors, others = headers.digests(one), headers.digests(other)
    if tensors.keys() != others.keys():
        odd = sorted(tensors.keys() ^ others.keys())[:3]
        raise StageError(f"the rebuilt checkpoint holds other tensors: {odd}", hint="read the log of the rebuild")
    return sorted(name for name in tensors if tensors[name] != others[name])
