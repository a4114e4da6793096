"""Takes a checkpoint of others as an artifact: its files under the artifact's folder, and a manifest that says so."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from quantpress.adopt.description import Description
from quantpress.artifact import manifest, own
from quantpress.artifact.manifest import Adopted, Artifact, File, Inputs, Manifest, Sizes
from quantpress.errors import InputError, StageError, listed
from quantpress.language import shipped
from quantpress.model.side_files import side_files
from quantpress.model.source import Model
from quantpress.recipe.recipe import ArtifactName
from quantpress.runtime import atomic, console, copying, digests, disk, environment, locks, ownership
from quantpress.runtime.cache import digest_cache

# Raise this when a change here makes another artifact of the same files.
STAGE = 1
_LARGE = (".safetensors",)
_OF_A_PACKAGE = ("manifest.json", "sbom.cdx.json", "bundle.json")  # what a package of ours says of itself


def require_name(name: str) -> None:
    """Raises InputError for a name that no artifact may have, and for that of a shipped recipe."""
    try:
        TypeAdapter(ArtifactName).validate_python(name)
    except ValidationError as error:
        raise InputError(
            f"--as {name}: {error.errors()[0]['msg']}",
            hint="name it with letters a-z, digits, `.`, `_` and `-`: --as their-gptq",
        ) from error
    if name in shipped.names("recipes"):
        raise InputError(f"--as {name} is the name of a shipped recipe", hint="choose another name")


@dataclass(frozen=True)
class Adoption:
    """What is to be adopted under which artifact, and what it is compared with; `tried` has vLLM serve it and returns
    its version, which is `vllm`, and raises what adoption is refused by (None: vLLM is not asked)."""

    artifact: Artifact
    candidate: Model
    base: Model
    found: Description
    tried: Callable[[], str] | None
    vllm: str | None = None


def adopt(asked: Adoption) -> Manifest:
    """Makes the artifact of the candidate's files, unless it is there already, and returns its manifest.

    The source is neither changed nor moved. Its weights are shared with it where the file system can (reflinks, hard
    links), else copied, and so is what lies beside them, which people edit. Raises InputError for a folder that holds
    what quantpress did not write, or what a recipe made.
    """
    artifact, candidate = asked.artifact, asked.candidate
    disk.require_writable(artifact.folder)
    ownership.require_ours(artifact.folder, own.strangers, f"move {artifact.folder} away, or choose another name")
    known = artifact.manifest()
    if known and known.adopted is None:
        raise InputError(
            f"{artifact.folder} holds what the recipe {known.recipe_name} made", hint="choose another name with --as"
        )
    files = candidate.deciding_files()
    with digests.unchanged(files):
        with console.step(f"reading the digests of {candidate.name}"):
            inputs = _inputs(asked)
        if known and known.digest != inputs.digest:
            known = None
        vllm = asked.tried() if asked.tried and not known else None
    # A hard link changes its source's inode, so `unchanged` ends before one is made.
    if known:
        _mend(artifact, known, candidate)
        console.say(f"✓ {artifact.folder} is up to date: the same files, compared with the same model")
        return _served(known, asked)
    with locks.lock(artifact.folder), atomic.staging(artifact.folder) as staged:
        (staged / "checkpoint").mkdir()
        # A licence and its kin decide nothing, and go with it.
        for path in sorted({*files, *side_files(candidate.path)}):
            if path.name not in _OF_A_PACKAGE:
                _take(path, staged / "checkpoint" / path.relative_to(candidate.path))
        made = _manifest(asked, inputs, manifest.file_table(staged / "checkpoint"), vllm)
        _require_as_read(made, candidate)
        made.save(staged / "manifest.json")
        atomic.publish(staged, artifact.folder, own.strangers)
    return made


def _take(path: Path, place: Path) -> None:
    """Weights are shared with their source where the file system can; what lies beside them, people edit."""
    place.parent.mkdir(parents=True, exist_ok=True)
    take = copying.share_or_copy if path.suffix in _LARGE else shutil.copyfile
    take(path, place)


def _mend(artifact: Artifact, known: Manifest, candidate: Model) -> None:
    """Puts back, from the same source, what decides the output and is not what it was (a weight that the source shares
    changes with it). Scores and speeds are of these bytes, and stay."""
    deciding = {name: artifact.checkpoint / name for name in known.files.keys() & (known.inputs.files or {}).keys()}
    there = digests.cached_sha256([path for path in deciding.values() if path.is_file()], digest_cache())
    damaged = [name for name, path in deciding.items() if there.get(path) != known.files[name].sha256]
    if not damaged:
        return
    with locks.lock(artifact.folder):
        for name in damaged:
            new = deciding[name].with_name(f".{deciding[name].name}.new")
            new.unlink(missing_ok=True)
            _take(candidate.path / name, new)
            if digests.sha256_file(new) != known.files[name].sha256:
                raise StageError(f"{candidate.path / name} changed while it was adopted", hint="run again")
            new.replace(deciding[name])
    console.say(f"  {artifact.folder}: put back, missing or changed: {listed(sorted(damaged))}")


def _served(known: Manifest, asked: Adoption) -> Manifest:
    """The manifest of what was adopted before. A vLLM that has not served it yet is asked; the first one is put down,
    and no other: what was recertified on another one vouches for the manifest as it is."""
    assert known.adopted
    if asked.tried is None or (known.adopted.vllm and asked.vllm in (None, known.adopted.vllm)):
        return known
    version = asked.tried()
    if known.adopted.vllm:
        return known
    adopted = known.adopted.model_copy(update={"vllm": version})
    made = known.model_copy(update={"adopted": adopted})
    with locks.lock(asked.artifact.folder):
        made.save(asked.artifact.manifest_file)
    return made


def _inputs(asked: Adoption) -> Inputs:
    return Inputs(
        stage=STAGE,
        recipe={},
        calibration=None,
        model=asked.base.digests(),
        versions={name: version for name, version in asked.found.makers.items() if version},
        files=asked.candidate.digests(),
    )


def _require_as_read(made: Manifest, candidate: Model) -> None:
    """Raises StageError if a file was changed between the digest that names the artifact and its place in it."""
    read = made.inputs.files or {}
    if changed := [name for name, file in made.files.items() if read.get(name, file.sha256) != file.sha256]:
        raise StageError(
            f"{listed(changed)} of {candidate.path} changed while it was adopted",
            hint="run again when nobody writes there",
        )


def _manifest(asked: Adoption, inputs: Inputs, files: dict[str, File], vllm: str | None) -> Manifest:
    found, source = asked.found, asked.candidate.identity()
    description = f"Made elsewhere: {found.words}."
    return Manifest(
        recipe={"name": asked.artifact.name, "description": description, "modifiers": []},
        quantized_layers=len(found.layers),
        group_size=found.group_size,
        scales=found.scales,
        modifiers=[],
        calibration=None,
        warnings=[],
        threads=None,
        bytes=Sizes(model=_size(asked.base), checkpoint=_size(asked.candidate)),
        files=files,
        machine=environment.machine(),
        seconds=None,
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        digest=inputs.digest,
        inputs=inputs,
        model=asked.base.identity(),
        adopted=Adopted(
            source=source.source,
            revision=source.revision,
            format=found.format,
            bits=found.bits,
            makers=found.makers,
            vllm=vllm,
            dequantized=found.dequantized,
            stored_bytes=found.stored_bytes,
        ),
    )


def _size(model: Model) -> int:
    """Bytes of the weights."""
    return sum(tensor.nbytes for tensor in model.headers().values())
