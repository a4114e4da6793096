"""The quantize stage: recipe and model in, a checked compressed-tensors checkpoint with its manifest out."""

from __future__ import annotations

import os
import time
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from quantpress.artifact import kept_blocks, manifest, own
from quantpress.artifact.manifest import Artifact, Inputs, Manifest, Sizes, artifact_of
from quantpress.errors import CapabilityError, InputError, StageError
from quantpress.model import headers
from quantpress.model.source import Model
from quantpress.plan import arithmetic
from quantpress.plan.preflight import poor_chats, too_long
from quantpress.plan.resolve import Plan
from quantpress.quantize import account, calibration_data, integrity, own_chats, streaming
from quantpress.quantize.keeping import forget, keep_for
from quantpress.quantize.workers import (
    CHATS,
    IMAGES,
    ONESHOT,
    STREAM,
    ChatsJob,
    ImagesJob,
    ImagesResult,
    Keep,
    OneshotJob,
    StreamJob,
    recipe_job,
)
from quantpress.recipe.modifiers import Awq, SmoothQuant
from quantpress.recipe.recipe import Calibration
from quantpress.runtime import atomic, console, digests, disk, environment, free_memory, locks, ownership
from quantpress.runtime.cache import cache_folder, digest_cache

# The distributions whose versions decide a checkpoint's bytes.
DECISIVE = ("llmcompressor", "compressed-tensors", "torch", "transformers", "tokenizers", "numpy")
# Raise this when a change here or in the workers (oneshot, stream) makes the same recipe give other bytes.
STAGE = 3
_CHATS = 1  # raise this when chats_worker.py finds other conversations wrong
_IMAGES = 1  # the same of images_worker.py
_LARGE = 2_000_000_000  # bytes; a second of hashing or two


@dataclass(frozen=True)
class Quantized:
    """An artifact with its manifest; `reused` if it was there already."""

    artifact: Artifact
    manifest: Manifest
    reused: bool


def prepared(plan: Plan, model: Model, compute_dtype: str, elsewhere: bool = False) -> Plan:
    """The plan with every hub data set at a commit, and the type for calibration if `compute_dtype` is auto.

    Raises InputError for data that cannot be had, CapabilityError where the type cannot be chosen, or there are fewer
    GPUs (or cores) than processes that are to share the data. Of what is made `elsewhere`, these are not counted here.
    """
    calibration = plan.recipe.calibration
    if calibration is None:
        return plan
    calibration_data.check_sources(calibration)
    if not elsewhere:
        _require_devices(plan)
    pinned = plan.recipe.model_copy(update={"calibration": calibration_data.pinned(calibration)})
    return replace(plan, recipe=pinned, compute_dtype=arithmetic.compute_dtype(model, compute_dtype))


def processes_of(plan: Plan) -> int:
    """How many processes share the calibration data."""
    calibration = plan.recipe.calibration
    return (calibration.processes if calibration else None) or 1


def _require_devices(plan: Plan) -> None:
    """Raises CapabilityError unless each of several processes has a GPU, or, to try it, a core. What rescales weights
    needs GPUs: on a CPU every process would rescale the same memory once more."""
    processes, gpus = processes_of(plan), len(environment.visible_gpus())
    if processes == 1:
        return
    devices, kind = (gpus, "GPU") if gpus else (len(os.sched_getaffinity(0)), "core")
    if processes > devices:
        raise CapabilityError(
            f"calibration.processes is {processes}, each takes a {kind} of its own, and {devices} can be used here",
            hint=f"--set calibration.processes={devices}" if devices > 1 else "leave calibration.processes out",
        )
    rescaling = [one.name for one in plan.recipe.modifiers if isinstance(one.body, Awq | SmoothQuant)]
    if rescaling and not gpus:
        raise CapabilityError(
            f"{rescaling[0]} in several processes needs a GPU for each: on a CPU, all would rescale the same memory",
            hint="leave calibration.processes out",
        )
    if gpus:
        console.warn(
            "several processes were tried on CPUs only, never yet on GPUs: compare a small model's checkpoint with "
            "that of one process before you trust a large one's"
        )


def check_data(plan: Plan, model: Model) -> ImagesResult | None:
    """Reads the local calibration data to its end, and has the model's chat template tried on every conversation.

    What comes of them where they name images. Raises InputError with file and line of what cannot be used,
    CapabilityError where the model's processor cannot be loaded.
    """
    if plan.recipe.calibration is None:
        return None
    found = calibration_data.require_readable(plan.recipe.calibration)
    for note in found.notes:
        console.warn(note)
    if chats := [path for path in found.chats if path not in found.with_images]:
        try_template(chats, model)
    return try_images(plan.recipe.calibration, found.with_images, model) if found.with_images else None


def try_images(calibration: Calibration, with_images: list[Path], model: Model) -> ImagesResult:
    """Puts calibration data with images through the model's processor, once for the same data, files and versions.

    Raises InputError with file and line of what it does not take, CapabilityError where it cannot be loaded.
    """
    where = calibration_data.first_image(calibration)
    assert where is not None
    of_processor = model.small_files()
    read = digests.cached_sha256(of_processor, digest_cache())
    deciding = [
        {path.relative_to(model.path).as_posix(): read[path] for path in of_processor},
        calibration_data.identity(calibration).dump(),
        environment.versions(("transformers", "tokenizers", "jinja2", "torch")),
    ]
    kept = cache_folder() / "images" / f"{digests.sha256_json([_IMAGES, deciding, model.trust_remote_code])[:16]}.json"
    job = ImagesJob(
        calibration=calibration,
        with_images=[path.resolve() for path in with_images],
        where=where,
        model=model.path.resolve(),
        trust_remote_code=model.trust_remote_code,
    )
    return IMAGES.answer(kept, job, f"putting images through the processor of {model.name}")


def try_template(chats: list[Path], model: Model) -> None:
    """Tries the model's chat template on the conversations of these files.

    Takes seconds, so that it is done once for the same files, tokenizer and versions. Raises InputError with file and
    line of the first conversation that the template does not take.
    """
    of_tokenizer = model.small_files()
    read = digests.cached_sha256([*of_tokenizer, *chats], digest_cache())
    own = {path.relative_to(model.path).as_posix(): read[path] for path in of_tokenizer}
    deciding = [own, *({path.name: read[path]} for path in chats)]
    known = [deciding, model.trust_remote_code, environment.versions(("transformers", "tokenizers", "jinja2"))]
    kept = cache_folder() / "chats" / f"{digests.sha256_json([_CHATS, known])[:16]}.json"
    files = [path.resolve() for path in chats]
    job = ChatsJob(files=files, model=model.path.resolve(), trust_remote_code=model.trust_remote_code)
    CHATS.answer(kept, job, f"trying the chat template of {model.name}")


def inputs_of(plan: Plan, model: Model) -> Inputs:
    """Everything that decides the checkpoint's bytes; its digest names the artifact."""
    return _inputs_beside(plan, model).model_copy(update={"model": model.digests()})


def _inputs_beside(plan: Plan, model: Model) -> Inputs:
    """The same without the digests of the model's files, whose reading takes a second for 2 GB."""
    calibration = plan.recipe.calibration
    return Inputs(
        stage=STAGE,
        recipe=plan.recipe.model_dump(exclude_none=True, exclude={"description", "targets", "calibration"}),
        calibration=calibration_data.identity(calibration) if calibration else None,
        model={},
        versions=environment.versions(DECISIVE),
        # None where it is as usual: so both could be added without renaming the artifacts that there were.
        trust_remote_code=model.trust_remote_code or None,
        compute_dtype=plan.compute_dtype if plan.compute_dtype != "stored" else None,
    )


def quantize(plan: Plan, model: Model, out: Path, offload: str = "auto") -> Quantized:
    """Makes `out/<model>/<recipe>/checkpoint` of a prepared plan, unless the same inputs made what is there.

    `offload` says whether the weights stay on the disk meanwhile (free_memory.stay_on_disk).
    Raises InputError before anything is written, CapabilityError for lack of space or a library, StageError if
    llmcompressor fails or its checkpoint is not what the recipe says.
    """
    disk.require_writable(out)
    artifact = artifact_of(out, model.name, plan.recipe.name)
    require_replaceable(artifact)
    existing = _existing(artifact, plan, model)
    if existing:
        if kept_blocks.folder_of(artifact.folder).is_dir():
            with locks.lock(artifact.folder):
                forget(artifact)
        return existing
    check_data(plan, model)
    on_disk = streaming.stay_on_disk(plan, model, offload)
    if on_disk:
        console.say(f"  the {plan.weight_bytes / 1e9:.1f} GB of weights stay on the disk while they are quantized")
    needed = streaming.disk_bytes(plan, model, on_disk)
    disk.require_space(out, needed)
    with locks.lock(artifact.folder), atomic.staging(artifact.folder) as staged:
        log = artifact.folder.parent / "logs" / f"{artifact.name}.quantize.log"
        keep = keep_for(artifact, plan, _inputs_beside(plan, model), lambda: inputs_of(plan, model).digest, needed)
        try:
            made = make_checkpoint(plan, model, staged, log, keep, on_disk)
        except StageError as error:
            error.log = error.log or log
            raise
        made.save(staged / "manifest.json")
        atomic.publish(staged, artifact.folder, own.strangers)
        forget(artifact)
    return Quantized(artifact, made, reused=False)


def require_replaceable(artifact: Artifact) -> None:
    """Raises InputError if the artifact's folder holds anything that quantpress did not write."""
    ownership.require_ours(
        artifact.folder, own.strangers, f"move it out of {artifact.folder}, or write elsewhere with --out"
    )


def _existing(artifact: Artifact, plan: Plan, model: Model) -> Quantized | None:
    """What is there already, if it is whole and the same inputs made it. Says why where it is not."""
    known = artifact.manifest()
    if known is None:
        return None
    if known.adopted:
        raise InputError(
            f"{artifact.folder} holds a checkpoint that was adopted from {known.adopted.source}",
            hint=f"give the recipe another name, or move {artifact.folder} away",
        )
    with console.step(f"reading the digests of {model.name}") if plan.weight_bytes > _LARGE else nullcontext():
        inputs = inputs_of(plan, model)
    damaged = _damaged(artifact, known)
    if damaged:
        console.say(f"  {artifact.folder} is remade; missing or cut short: {', '.join(damaged)}")
        return None
    if known.digest == inputs.digest:
        console.say(f"✓ {artifact.folder} is up to date: same recipe, model, calibration data and versions")
        return Quantized(artifact, known, reused=True)
    changed = manifest.differences(known.inputs.dump(), inputs.dump())
    console.say(f"  {artifact.folder} is remade; changed: {', '.join(changed)}")
    return None


def _damaged(artifact: Artifact, known: Manifest) -> list[str]:
    """Files of the checkpoint that are missing or of another size; `verify` looks at every byte."""

    def is_whole(name: str, size: int) -> bool:
        path = artifact.checkpoint / name
        return path.is_file() and path.stat().st_size == size

    return [name for name, file in known.files.items() if not is_whole(name, file.bytes)] if known.files else ["all"]


def make_checkpoint(
    plan: Plan, model: Model, staged: Path, log: Path, keep: Keep | None = None, on_disk: bool = False
) -> Manifest:
    """Makes `staged/checkpoint` with recipe.resolved.yaml beside it, and returns the manifest, which it does not write.

    `keep` says where finished blocks are kept; `on_disk` leaves the weights on the disk meanwhile. What llmcompressor
    prints goes into `log`; wrong input, an InputError, leaves none. Raises StageError if llmcompressor fails or its
    checkpoint is not what the recipe says, CapabilityError for lack of space or memory.
    """
    if on_disk and processes_of(plan) > 1:
        raise CapabilityError(
            "several processes do not find weights that stay on the disk (compressed-tensors 0.19)",
            hint="leave calibration.processes out, or take a machine with more memory (--offload never)",
        )
    started = time.time()
    checkpoint = staged / "checkpoint"
    checkpoint.mkdir()

    # llmcompressor, in a process of its own.
    log.unlink(missing_ok=True)
    streamed = streaming.is_streamed(plan, model)
    offload = staged.resolve() / "weights" if on_disk else None
    title = f"quantizing {model.name} with {plan.recipe.name} ({len(plan.layers)} layers)"
    try:
        with digests.unchanged(model.deciding_files()):
            if streamed:
                result = STREAM.run(stream_job(plan, model, checkpoint), staged, title, log)
            else:
                job = oneshot_job(plan, model, checkpoint)
                job = job.model_copy(update={"keep": keep, "offload": offload})
                result = ONESHOT.run(job, staged, title, log, processes_of(plan))
    except InputError as error:
        log.unlink(missing_ok=True)  # wrong input leaves nothing behind
        error.log = None
        raise
    if offload:
        ownership.remove(offload)
    warnings = [*too_long(plan.recipe, plan.structure, model.config), *poor_chats(plan.recipe, plan.parameters)]
    warnings = _warned([*warnings, *result.warnings])

    # Is it whole, is it what the plan says, and can it be sound?
    _require_written(checkpoint)
    accounted = account.complete(checkpoint, model, plan)
    check_checkpoint(checkpoint, plan)
    warnings += _warned(integrity.check_scales(checkpoint))
    size = sum(tensor.nbytes for tensor in headers.read_folder(checkpoint).values())
    if plan.checkpoint_bytes < plan.weight_bytes:  # a KV cache in 8 bits and a pruned model leave weights their size
        integrity.check_size(size, plan.weight_bytes)

    # As others take it: our recipe in place of llmcompressor's own, which it cannot always read back, and files that
    # may be read; transformers writes weights for their owner only, and a server often runs as someone else.
    atomic.write_text(staged / "recipe.resolved.yaml", yaml.safe_dump(plan.recipe.dump(), sort_keys=False))
    own_chats.keep(plan.recipe, staged)
    (checkpoint / "recipe.yaml").unlink(missing_ok=True)
    for path in checkpoint.iterdir():
        with suppress(PermissionError):  # vfat has no such permissions: there everybody may read
            path.chmod(0o644)

    # What is known of it. The worker has read the model's digests meanwhile, so they cost nothing here.
    inputs = inputs_of(plan, model)
    return Manifest(
        recipe=plan.recipe.dump(),
        quantized_layers=len(plan.layers),
        group_size=plan.group_size,
        scales=plan.scales,
        compute_dtype=plan.compute_dtype,
        modifiers=result.modifiers,
        calibration=result.calibration,
        warnings=warnings,
        threads=result.threads,
        path="model_free" if streamed else "oneshot",
        note=result.note,
        bytes=Sizes(model=plan.weight_bytes, checkpoint=size),
        files=manifest.file_table(checkpoint),
        machine=environment.machine(),
        seconds=round(time.time() - started + result.seconds_before, 2),
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        digest=inputs.digest,
        inputs=inputs,
        model=model.identity(),
        account=accounted,
    )


def oneshot_job(plan: Plan, model: Model, checkpoint: Path) -> OneshotJob:
    """What the worker must know that holds the whole model."""
    return OneshotJob(
        common=recipe_job(plan, model, checkpoint),
        layers=list(plan.layers),
        largest_input=plan.largest_input,
        compute_dtype=plan.compute_dtype,
        deciding_files=model.deciding_files(),
        digest_cache=digest_cache().resolve(),
    )


def stream_job(plan: Plan, model: Model, checkpoint: Path) -> StreamJob:
    """What the worker must know that goes through the files."""
    stored = plan.structure.stored
    return StreamJob(
        common=recipe_job(plan, model, checkpoint),
        layers=list(plan.layers),
        stored={layer: stored[layer] for layer in plan.layers if layer in stored},
        left_out=streaming.left_out(plan, model),
        processes=streaming.processes(plan, model, free_memory.available()),
        deciding_files=model.deciding_files(),
        digest_cache=digest_cache().resolve(),
    )


def _warned(warnings: list[str]) -> list[str]:
    """The same, which a person has seen now: also where a later check fails."""
    for warning in warnings:
        console.warn(warning)
    return warnings


def _require_written(checkpoint: Path) -> None:
    if not (checkpoint / "config.json").is_file() or not list(checkpoint.glob("*.safetensors")):
        raise StageError("llmcompressor wrote no checkpoint", hint="read the log; its end holds the reason")


def check_checkpoint(checkpoint: Path, plan: Plan) -> None:
    """Raises StageError unless exactly the planned layers carry scales: not fewer, and none that was to be ignored."""
    _require_written(checkpoint)
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
