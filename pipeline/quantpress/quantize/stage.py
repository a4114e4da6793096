"""The quantize stage: recipe and model in, a checked compressed-tensors checkpoint with its manifest out."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from quantpress.artifact import manifest
from quantpress.artifact.manifest import Artifact, artifact_of
from quantpress.errors import InputError, StageError
from quantpress.model import headers
from quantpress.model.source import Model, digest_cache
from quantpress.plan import arithmetic
from quantpress.plan.resolve import Plan
from quantpress.quantize import account, calibration_data, integrity
from quantpress.runtime import atomic, console, digests, disk, environment, locks, worker

# The distributions whose versions decide a checkpoint's bytes.
DECISIVE = ("llmcompressor", "compressed-tensors", "torch", "transformers", "tokenizers", "numpy")
# Raise this when a change here or in oneshot_worker.py makes the same recipe give other bytes.
STAGE = 2
_LARGE = 2_000_000_000  # bytes; a second of hashing or two


@dataclass(frozen=True)
class Quantized:
    artifact: Artifact
    manifest: dict[str, Any]
    reused: bool


def prepared(plan: Plan, model: Model, compute_dtype: str) -> Plan:
    """The plan with every hub data set at a commit, and the type for calibration if `compute_dtype` is auto.

    Raises InputError for data that cannot be had, CapabilityError where the type cannot be chosen.
    """
    calibration = plan.recipe.calibration
    if calibration is None:
        return plan
    calibration_data.check_sources(calibration)
    pinned = plan.recipe.model_copy(update={"calibration": calibration_data.pinned(calibration)})
    return replace(plan, recipe=pinned, compute_dtype=arithmetic.compute_dtype(model, compute_dtype))


def check_data(plan: Plan) -> None:
    """Reads the local calibration data to its end. Raises InputError for what cannot be used."""
    if plan.recipe.calibration:
        calibration_data.check(plan.recipe.calibration)


def inputs_of(plan: Plan, model: Model) -> dict[str, Any]:
    """Everything that decides the checkpoint's bytes; its digest names the artifact."""
    calibration = plan.recipe.calibration
    inputs = {
        "stage": STAGE,
        "recipe": plan.recipe.model_dump(exclude_none=True, exclude={"description", "targets", "calibration"}),
        "calibration": calibration_data.identity(calibration) if calibration else None,
        "model": model.digests(),
        "versions": environment.versions(DECISIVE),
    }
    # What is as usual is left out, so that it does not rename the artifacts that there are.
    unusual: dict[str, Any] = {"trust_remote_code": True} if model.trust_remote_code else {}
    unusual |= {"compute_dtype": plan.compute_dtype} if plan.compute_dtype != "stored" else {}
    return inputs | unusual


def quantize(plan: Plan, model: Model, out: Path) -> Quantized:
    """Makes `out/<model>/<recipe>/checkpoint` of a prepared plan, unless the same inputs made what is there.

    Raises InputError before anything is written, CapabilityError for lack of space or a library, StageError if
    llmcompressor fails or its checkpoint is not what the recipe says.
    """
    disk.require_writable(out)
    artifact = artifact_of(out, model.name, plan.recipe.name)
    existing = _existing(artifact, plan, model)
    if existing:
        return existing
    check_data(plan)
    disk.require_space(out, int(plan.weight_bytes * 1.5))
    with locks.lock(artifact.folder), atomic.staging(artifact.folder) as staged:
        log = artifact.folder.parent / "logs" / f"{artifact.name}.quantize.log"
        record = make(plan, model, staged, log)
        inputs = inputs_of(plan, model)
        record |= {"digest": digests.sha256_json(inputs), "inputs": inputs, "model": model.identity()}
        atomic.write_json(staged / "manifest.json", record)
        atomic.publish(staged, artifact.folder)
    return Quantized(artifact, record, reused=False)


def _existing(artifact: Artifact, plan: Plan, model: Model) -> Quantized | None:
    found = artifact.manifest()
    if found is None:
        return None
    with console.step(f"reading the digests of {model.name}") if plan.weight_bytes > _LARGE else nullcontext():
        inputs = inputs_of(plan, model)
    damaged = _damaged(artifact, found)
    if damaged:
        console.say(f"  {artifact.folder} is remade; missing or cut short: {', '.join(damaged)}")
        return None
    if found["digest"] == digests.sha256_json(inputs):
        console.say(f"✓ {artifact.folder} is up to date: same recipe, model, calibration data and versions")
        return Quantized(artifact, found, reused=True)
    console.say(f"  {artifact.folder} is remade; changed: {', '.join(manifest.differences(found['inputs'], inputs))}")
    return None


def _damaged(artifact: Artifact, record: dict[str, Any]) -> list[str]:
    """Files of the checkpoint that are missing or of another size; `verify` looks at every byte."""
    sizes = {name: entry["bytes"] for name, entry in record["files"].items()}
    paths = {name: artifact.checkpoint / name for name in sizes}
    return [name for name, path in paths.items() if not path.is_file() or path.stat().st_size != sizes[name]]


def make(plan: Plan, model: Model, staged: Path, log: Path) -> dict[str, Any]:
    """Makes the checkpoint in the folder `staged`, checks it, and returns what its manifest says of it."""
    started = time.time()
    checkpoint = staged / "checkpoint"
    checkpoint.mkdir()
    log.unlink(missing_ok=True)
    job = {
        "recipe": plan.recipe.dump(),
        "model": str(model.path),
        "output": str(checkpoint.resolve()),
        "largest_input": plan.largest_input,
        "trust_remote_code": model.trust_remote_code,
        "compute_dtype": plan.compute_dtype,
        "digest": {"files": [str(path) for path in model.deciding_files()], "cache": str(digest_cache().resolve())},
    }
    title = f"quantizing {model.name} with {plan.recipe.name} ({len(plan.layers)} layers)"
    try:
        result = worker.call_worker("quantpress.quantize.oneshot_worker", job, staged, title, log)
    except InputError:
        log.unlink(missing_ok=True)  # wrong input leaves nothing behind
        raise
    for warning in result["warnings"]:
        console.warn(warning)
    account.complete(checkpoint, model, plan)
    check_checkpoint(checkpoint, plan)
    integrity.check_scales(checkpoint)
    size = sum(tensor.nbytes for tensor in headers.read_folder(checkpoint).values())
    if plan.checkpoint_bytes < plan.weight_bytes:  # a KV cache in 8 bits and a pruned model leave weights their size
        integrity.check_size(size, plan.weight_bytes)
    resolved = yaml.safe_dump(plan.recipe.dump(), sort_keys=False)
    atomic.write_text(staged / "recipe.resolved.yaml", resolved)
    (checkpoint / "recipe.yaml").unlink(missing_ok=True)  # llmcompressor's own, which it cannot always read back
    for path in checkpoint.iterdir():
        path.chmod(0o644)  # transformers writes weights for their owner only; a server often runs as someone else
    table = manifest.file_table(checkpoint)
    return {
        "schema_version": manifest.SCHEMA_VERSION,
        "recipe": plan.recipe.dump(),
        "quantized_layers": len(plan.layers),
        "group_size": plan.group_size,
        "scales": plan.scales,
        "compute_dtype": plan.compute_dtype,
        **result,
        "bytes": {"model": plan.weight_bytes, "checkpoint": size},
        "files": table,
        "machine": environment.machine().dump(),
        "seconds": round(time.time() - started, 2),
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def check_checkpoint(checkpoint: Path, plan: Plan) -> None:
    """Raises StageError unless exactly the planned layers carry scales: not fewer, and none that was to be ignored."""
    if not (checkpoint / "config.json").is_file() or not list(checkpoint.glob("*.safetensors")):
        raise StageError("llmcompressor wrote no checkpoint", hint="read the log; its end holds the reason")
    tensors = headers.read_folder(checkpoint)
    found = {name.removesuffix(".weight_scale") for name in tensors if name.endswith(".weight_scale")}
    planned = {plan.structure.stored_name(name) for name in plan.layers}
    missing, extra = sorted(planned - found), sorted(found - planned)
    if missing or extra:
        raise StageError(
            f"the recipe quantizes {len(plan.layers)} layers, the checkpoint has {len(found)} quantized; "
            f"not quantized: {missing[:3]}, quantized but not planned: {extra[:3]}",
            hint="check `targets` and `ignore` against the layer names above",
        )
