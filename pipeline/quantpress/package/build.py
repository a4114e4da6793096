"""A package: what a cluster takes. The checkpoint with its model card, deploy/, and a manifest of every file."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantpress.artifact import manifest
from quantpress.artifact.accuracy import Accuracy
from quantpress.artifact.manifest import Artifact
from quantpress.artifact.results import results_of
from quantpress.errors import InputError, StageError, slug
from quantpress.model.source import Model
from quantpress.package import card, deploy, origin, signing
from quantpress.runtime import atomic, console, digests, disk, locks

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
# What the hub and its client add to a repository or to a download of it; no part of a package.
_FOREIGN = (".gitattributes", ".cache/huggingface/")


@dataclass(frozen=True)
class Order:
    """What the user asked for beside recipe and model. `storage` is where a cluster will find the package."""

    to: Path | None = None
    storage: str | None = None
    base_model: str | None = None
    license: str | None = None
    device: str = "auto"
    sign_key: Path | None = None


def check(order: Order, target: Path) -> None:
    """Everything that can be wrong before anything is made. Raises InputError or CapabilityError."""
    if target.exists() and read(target) is None:
        raise InputError(f"{target} exists and is not a package", hint="name another folder with --to")
    if order.storage and "://" not in order.storage:
        raise InputError(
            f"--storage {order.storage!r} is not an address", hint="s3://..., hf://org/name, pvc://claim/path"
        )
    if order.storage and order.storage.startswith("pvc://") and ".." in order.storage.split("/"):
        raise InputError(f"--storage {order.storage!r} leaves its claim", hint="pvc://claim/path")
    if order.sign_key:
        signing.check_key(order.sign_key)
    disk.require_writable(target, "name another folder with --to")


def folder_of(artifact: Artifact, order: Order) -> Path:
    return (order.to or artifact.folder / "package").absolute()


def build(artifact: Artifact, model: Model, order: Order) -> dict[str, Any]:
    """Writes the package, complete or not at all, and returns its manifest.

    Raises InputError for what `check` finds, StageError if the checkpoint is not what its own manifest says.
    """
    target = folder_of(artifact, order)
    check(order, target)
    record = artifact.finished()
    name = slug(f"{model.name}-{record['recipe']['name']}")
    source = origin.of(model, order.base_model, order.license)
    with locks.lock(target), atomic.staging(target) as staged:
        with manifest.readable(artifact.folder):
            facts = _facts(artifact, name, source, record, model, order)
            atomic.write_text(staged / "README.md", card.render(facts))
            storage = order.storage or f"pvc://models/{name}"
            _write_deploy(staged / "deploy", deploy.files(name, facts.engine, storage, record["bytes"]["checkpoint"]))
        for path in sorted(artifact.checkpoint.rglob("*")):
            if path.is_file():
                _link(path, staged / path.relative_to(artifact.checkpoint))
        for path in (*source.terms, artifact.folder / "recipe.resolved.yaml"):
            _link(path, staged / path.name)
        with console.step(f"reading the digests of {name}"):
            about = _about(facts, storage, manifest.file_table(staged))
        _require_as_made(record, about["files"], artifact)
        atomic.write_json(staged / MANIFEST, about)
        if order.sign_key:
            with console.step(f"signing {name}"):
                signing.sign(staged, order.sign_key)
        atomic.publish(staged, target)
    return about


def _facts(
    artifact: Artifact, name: str, source: origin.Origin, record: dict[str, Any], model: Model, order: Order
) -> card.Facts:
    throughput = artifact.result("throughput")
    return card.Facts(
        name=name,
        origin=source,
        record=record,
        config=atomic.read_json(artifact.checkpoint / "config.json"),
        scored=results_of(artifact, Accuracy).all(),
        throughput=throughput,
        engine=deploy.engine(throughput, model.trust_remote_code, order.device),
        recipe_text=(artifact.folder / "recipe.resolved.yaml").read_text(encoding="utf-8"),
    )


def _write_deploy(folder: Path, texts: dict[str, str]) -> None:
    for name, text in texts.items():
        atomic.write_text(folder / name, text)
        if name.endswith(".sh"):
            (folder / name).chmod(0o755)


def _link(source: Path, target: Path) -> None:
    """A hard link, which takes no space, or a copy where the file systems differ."""
    target.parent.mkdir(parents=True, exist_ok=True)
    real = source.resolve()  # a hub model's files are links into its cache
    try:
        os.link(real, target)
    except OSError:
        shutil.copyfile(real, target)


def _about(facts: card.Facts, storage: str, table: dict[str, Any]) -> dict[str, Any]:
    """The package's manifest. It names no folder of this machine: it is made to be handed on."""
    identity = facts.record["model"]
    return {
        "kind": "package",
        "schema_version": SCHEMA_VERSION,
        "name": facts.name,
        "recipe": facts.record["recipe"]["name"],
        "checkpoint_digest": facts.record["digest"],
        "model": {key: identity[key] for key in ("name", "revision", "digest")},
        "base_model": facts.origin.base_model,
        "license": facts.origin.license,
        "measured": {"accuracy": bool(facts.scored), "throughput": facts.throughput is not None},
        "engine": {
            "image": facts.engine.image,
            "arguments": facts.engine.arguments,
            "environment": facts.engine.environment,
        },
        "storage": storage,
        "bytes": sum(entry["bytes"] for entry in table.values()),
        "files": table,
    }


def _require_as_made(record: dict[str, Any], table: dict[str, Any], artifact: Artifact) -> None:
    changed = [name for name, entry in record["files"].items() if table.get(name) != entry]
    # A card or a licence of the checkpoint's own would be overwritten by ours, and so be among these.
    if changed:
        raise StageError(
            f"{artifact.checkpoint} is not what was made: {', '.join(changed[:3])}",
            hint=f"quantpress verify {artifact.folder} says more; quantize again",
        )


def read(folder: Path) -> dict[str, Any] | None:
    """A package's manifest, or None if the folder is no package of this version."""
    try:
        found = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    known = isinstance(found, dict) and found.get("kind") == "package" and isinstance(found.get("files"), dict)
    return found if known and found.get("schema_version") == SCHEMA_VERSION else None


def is_package(folder: Path) -> bool:
    """Whether the folder says of itself that it is a package, be it a sound one or not."""
    try:
        found = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and found.get("kind") == "package"


def contents(folder: Path) -> list[str]:
    """Relative names of the files in a package's folder, less what the hub's client puts there."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
    return [name for name in names if not name.startswith(_FOREIGN)]


def verify(folder: Path, public_key: Path | None = None) -> list[str]:
    """What is wrong with a package, a line for each file; empty if every byte is as packaged.

    With `public_key` the signature counts too: a package without one is not what it should be.
    """
    about = read(folder)
    if about is None:
        return [f"{MANIFEST}: not a manifest of this version of quantpress (schema_version {SCHEMA_VERSION})"]
    problems = _differences(folder, about["files"])
    if public_key:
        problems += signing.problems(folder, public_key)
    return problems


def _differences(folder: Path, expected: dict[str, Any]) -> list[str]:
    found = set(contents(folder)) - {MANIFEST, signing.SIGNATURE}
    problems = [f"{name}: missing" for name in sorted(expected.keys() - found)]
    problems += [f"{name}: not in the manifest" for name in sorted(found - expected.keys())]
    present = [name for name in sorted(expected.keys() & found) if (folder / name).is_file()]
    measured = digests.sha256_files([folder / name for name in present])
    for name in present:
        known = expected[name].get("sha256") if isinstance(expected[name], dict) else None
        if measured[folder / name] != known:
            problems.append(f"{name}: sha256 {measured[folder / name][:12]}, packaged with {str(known)[:12]}")
    return problems
