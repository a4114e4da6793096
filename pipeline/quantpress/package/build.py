"""A package: what a cluster takes. The checkpoint with its model card, deploy/, and a manifest of every file."""

from __future__ import annotations

import os
import re
import shutil
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from quantpress.artifact import manifest
from quantpress.artifact.accuracy import Accuracy
from quantpress.artifact.manifest import Artifact, File, Manifest
from quantpress.artifact.results import results_of
from quantpress.artifact.throughput import Throughput
from quantpress.errors import InputError, StageError, slug
from quantpress.model.source import Model
from quantpress.package import card, deploy, materials, origin, signing
from quantpress.runtime import atomic, console, copying, disk, locks, ownership
from quantpress.runtime.records import Record

SCHEMA_VERSION: Final = 1
MANIFEST = "manifest.json"
_CARD, _DEPLOY = "README.md", "deploy"
_RECIPE = "recipe.resolved.yaml"  # what was adopted has none
# What a package says of itself. What a checkpoint brings under these names is not of this package: the unquantized
# model's card, the manifest of another package that was adopted.
_ITS_OWN = (_CARD, _DEPLOY, _RECIPE, MANIFEST, signing.SIGNATURE, materials.SBOM)
# What the hub and its client add to a repository or to a download of it, by exact names; no part of a package.
_FOREIGN = re.compile(
    r"\.gitattributes|\.cache/huggingface/(\.gitignore|CACHEDIR\.TAG|download/(?P<of>.+)\.(metadata|lock))"
)


@dataclass(frozen=True)
class Order:
    """What the user asked for beside recipe and model. `storage` is where a cluster will find the package, `engine` are
    vLLM's arguments in place of those that were measured."""

    to: Path | None = None
    storage: str | None = None
    base_model: str | None = None
    license: str | None = None
    device: str = "auto"
    engine: tuple[str, ...] = ()
    sign_key: Path | None = None
    sbom: bool = False


class PackagedModel(Record):
    """The unquantized model, without the folder that it lay in: a package is made to be handed on."""

    name: str
    revision: str | None
    digest: str


class Measured(Record):
    """Which of the results the package repeats."""

    accuracy: bool
    throughput: bool


class Start(Record):
    """How deploy/ starts vLLM: `arguments` go behind `vllm serve FOLDER`."""

    image: str
    arguments: list[str]
    environment: dict[str, str]


class Package(Record):
    """A package's manifest.json. It names no folder of this machine.

    `files` are all but itself and the signature, `bytes` their sum; `storage` is where a cluster will find it.
    """

    # The order of the fields is the file's: that is why this is no Stored, which writes its number first.
    kind: Literal["package"] = "package"
    schema_version: Literal[1] = SCHEMA_VERSION
    name: str
    recipe: str
    checkpoint_digest: str
    model: PackagedModel
    base_model: str | None
    license: str | None
    measured: Measured
    engine: Start
    storage: str
    bytes: int
    files: dict[str, File]


def require_possible(order: Order, target: Path) -> None:
    """Everything that can be wrong before anything is made. Raises InputError or CapabilityError."""
    ownership.require_ours(target, _strangers, "name another folder with --to, or move it away")
    if order.storage and ("@" in order.storage or "?" in order.storage):
        raise InputError(
            "--storage takes an address without a user name, a key or a signature in it: it ends up in the package",
            hint="s3://bucket/prefix; the cluster gives its own credentials",
        )
    if order.storage and "://" not in order.storage:
        raise InputError(
            f"--storage {order.storage!r} is not an address", hint="s3://..., hf://org/name, pvc://claim/path"
        )
    if order.storage and order.storage.startswith("pvc://") and ".." in order.storage.split("/"):
        raise InputError(f"--storage {order.storage!r} leaves its claim", hint="pvc://claim/path")
    if order.sign_key:
        signing.check_key(order.sign_key)
    if order.sbom:
        materials.require_library()
    disk.require_writable(target, "name another folder with --to")


def _strangers(folder: Path) -> list[str]:
    """What is not ours in a folder that a package would replace: everything, where it is no package."""
    mark = MANIFEST if is_package(folder) else ""
    return ownership.strangers_beside(folder, mark, (signing.SIGNATURE,)) if mark else ownership.entries(folder)


def folder_of(artifact: Artifact, order: Order) -> Path:
    """Where the package is to be."""
    return (order.to or artifact.folder / "package").absolute()


def build(artifact: Artifact, model: Model, order: Order) -> Package:
    """Writes the package, complete or not at all, and returns its manifest.

    Raises InputError for what `require_possible` finds, StageError if the checkpoint is not what its own manifest says.
    """
    target = folder_of(artifact, order)
    require_possible(order, target)
    made = artifact.finished()
    name = slug(f"{model.name}-{made.recipe_name}")
    storage = order.storage or f"pvc://models/{name}"
    source = origin.origin_of(model, order.base_model, order.license)
    with _alone_with(artifact), locks.lock(target), atomic.staging(target) as staged:
        # What people and clusters read.
        facts = _facts(artifact, name, source, made, model, order)
        atomic.write_text(staged / _CARD, card.render(facts))
        _write_deploy(staged / _DEPLOY, deploy.files(name, facts.engine, storage, made.bytes.checkpoint))

        if order.sbom:
            text = materials.written(name, made, source.license, facts.throughput)
            atomic.write_text(staged / materials.SBOM, text)

        # The files themselves.
        shared = [
            copying.copy_or_share(path, staged / path.relative_to(artifact.checkpoint))
            for path in manifest.files_below(artifact.checkpoint)
            if not _is_its_own(path.relative_to(artifact.checkpoint))
        ]
        recipe = [] if made.adopted else [artifact.folder / _RECIPE]
        for path in (*source.terms, *recipe):
            if not (staged / path.name).exists():  # a checkpoint may bring its terms itself
                shutil.copyfile(path, staged / path.name)

        # Their digests: of what is in the package, not of what was meant to be in it.
        with console.step(f"reading the digests of {name}"):
            about = _manifest_of(facts, storage, manifest.file_table(staged))
        _require_as_made(made, about.files, artifact)
        atomic.write_json(staged / MANIFEST, about.dump())
        if order.sign_key:
            with console.step(f"signing {name}"):
                signing.sign(staged, order.sign_key)
        atomic.publish(staged, target, _strangers)
    if any(shared):
        console.say(
            f"  {sum(shared)} files of {target} are hard links to the checkpoint's, which nobody may write to now: "
            "this file system cannot share copies"
        )
    return about


def _alone_with(artifact: Artifact) -> AbstractContextManager[None]:
    """While its files are copied; a folder that nobody can write to needs no lock."""
    return locks.lock(artifact.folder) if os.access(artifact.folder.parent, os.W_OK) else nullcontext()


def _facts(
    artifact: Artifact, name: str, source: origin.Origin, made: Manifest, model: Model, order: Order
) -> card.Facts:
    throughput = results_of(artifact, Throughput).newest()
    return card.Facts(
        name=name,
        origin=source,
        made=made,
        config=atomic.read_json(artifact.checkpoint / "config.json"),
        scored=results_of(artifact, Accuracy).all(),
        throughput=throughput,
        engine=deploy.engine(throughput, model.trust_remote_code, order.device, order.engine),
        recipe_text=None if made.adopted else (artifact.folder / _RECIPE).read_text(encoding="utf-8"),
    )


def _write_deploy(folder: Path, texts: dict[str, str]) -> None:
    for name, text in texts.items():
        atomic.write_text(folder / name, text)
        if name.endswith(".sh"):
            with suppress(PermissionError):  # vfat
                (folder / name).chmod(0o755)


def _manifest_of(facts: card.Facts, storage: str, table: dict[str, File]) -> Package:
    model, engine = facts.made.model, facts.engine
    return Package(
        name=facts.name,
        recipe=facts.made.recipe_name,
        checkpoint_digest=facts.made.digest,
        model=PackagedModel(name=model.name, revision=model.revision, digest=model.digest),
        base_model=facts.origin.base_model,
        license=facts.origin.license,
        measured=Measured(accuracy=bool(facts.scored), throughput=facts.throughput is not None),
        engine=Start(image=engine.image, arguments=engine.arguments, environment=engine.environment),
        storage=storage,
        bytes=sum(file.bytes for file in table.values()),
        files=table,
    )


def _require_as_made(made: Manifest, table: dict[str, File], artifact: Artifact) -> None:
    brought = {name: file for name, file in made.files.items() if not _is_its_own(Path(name))}
    changed = [name for name, file in brought.items() if table.get(name) != file]
    if changed:
        raise StageError(
            f"{artifact.checkpoint} is not what was made: {', '.join(changed[:3])}",
            hint=f"quantpress verify {artifact.folder} says more; quantize again",
        )


def _is_its_own(name: Path) -> bool:
    return name.parts[0] in _ITS_OWN


def package_in(folder: Path) -> Package | None:
    """A package's manifest, or None if the folder is no package of this version."""
    try:
        return Package.model_validate_json((folder / MANIFEST).read_bytes())
    except (OSError, ValueError):  # pydantic's errors are among the latter
        return None


def is_package(folder: Path) -> bool:
    """Whether the folder says of itself that it is a package, be it a sound one or not."""
    return manifest.is_package(folder / MANIFEST)


def contents(folder: Path) -> list[str]:
    """Relative names of all that is in a package's folder, links included, less what the hub's client puts there."""
    names = ownership.entries(folder)
    return [name for name in names if not _is_the_hubs(folder, name, names)]


def _is_the_hubs(folder: Path, name: str, names: list[str]) -> bool:
    """Whether it is a file that the hub's client keeps beside a download: one of a name that it uses, of a file that is
    there."""
    found = _FOREIGN.fullmatch(name)
    return bool(found and ownership.is_regular(folder / name) and (found["of"] is None or found["of"] in names))


@dataclass(frozen=True)
class Verified:
    """`problems` are what is wrong, a line for each file; `signature` says whether somebody answers for the files:
    "signed" by the owner of the key that was named, "broken", "unsigned", or "not checked" where no key was named."""

    problems: list[str]
    signature: signing.Signature


def verified(folder: Path, public_key: Path | None = None) -> Verified:
    """What is wrong with a package, and what its signature says; no problem if every byte is as packaged.

    With `public_key` a package without a signature is not what it should be, nor is one with a file that the signature
    does not cover. Raises InputError if there is no such key.
    """
    is_signed = os.path.lexists(folder / signing.SIGNATURE)
    signature: signing.Signature = "not checked" if is_signed else "unsigned"
    about = package_in(folder)
    if about is None:
        wrong = f"{MANIFEST}: not a manifest of this version of quantpress (schema_version {SCHEMA_VERSION})"
        return Verified([wrong], signature)
    present = set(contents(folder)) - {MANIFEST, signing.SIGNATURE}
    problems = manifest.file_problems(folder, about.files, present, "packaged", by_size=False)
    marks = [name for name in (MANIFEST, signing.SIGNATURE) if os.path.lexists(folder / name)]
    problems += [f"{name}: a link or no file" for name in marks if not ownership.is_regular(folder / name)]
    if public_key:
        found = signing.problems(folder, public_key, set(ownership.entries(folder)) - set(contents(folder)))
        problems += found
        signature = ("broken" if found or problems else "signed") if is_signed else "unsigned"
    return Verified(problems, signature)


def verify(folder: Path, public_key: Path | None = None) -> list[str]:
    """The problems alone."""
    return verified(folder, public_key).problems
