"""The commands about packages: package and push. `verify` of a package is here too."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from quantpress.artifact import results, upkeep
from quantpress.artifact.manifest import Artifact, artifact
from quantpress.errors import InputError
from quantpress.model.source import Model
from quantpress.package import build as packaging
from quantpress.package import push as pushing
from quantpress.package.signing import SIGNATURE
from quantpress.runtime.console import Console, show


def order(args: Namespace) -> packaging.Order:
    return packaging.Order(
        to=Path(args.to) if args.to else None,
        storage=args.storage,
        base_model=args.base_model,
        license=args.license,
        device=args.device,
        sign_key=Path(args.sign_key) if args.sign_key else None,
    )


def check(args: Namespace, model: Model, recipe_name: str) -> None:
    """What can be wrong with the order, before hours of quantizing."""
    asked = order(args)
    packaging.check(asked, packaging.folder_of(artifact(Path(args.out), model.name, recipe_name), asked))


def build(args: Namespace, made: Artifact, model: Model, console: Console) -> None:
    asked = order(args)
    decision = upkeep.gates_of(results.of(made, "accuracy").all())
    if decision not in (None, "pass"):
        console.warn(f"a gate of {made.name} is decided as {decision}; the model card says so")
    for name, stage in (("accuracy", "evaluate"), ("throughput", "bench")):
        if made.result(name) is None:
            console.warn(
                f"{name} of {made.name} was not measured, and the card says so: quantpress {stage} {made.name}"
            )
    about = packaging.build(made, model, asked, console)
    folder = packaging.folder_of(made, asked)
    signed = f", signed ({SIGNATURE})" if asked.sign_key else ""
    text = f"{folder}: {len(about['files'])} files, {about['bytes'] / 1e6:.0f} MB{signed}; quantpress push takes it"
    show(args.json, {"folder": str(folder), **about}, text)


def push(args: Namespace) -> None:
    console = Console(quiet=args.quiet)
    done = pushing.push(Path(args.folder), args.destination, args.public, console)
    if "commit" in done:
        text = f"commit {done['commit']}"
    else:
        text = f"{len(done['sent'])} files sent, {len(done['already_there'])} were there already"
    show(args.json, done, f"{args.destination}: published; {text}")


def problems(folder: Path, public_key: str | None) -> list[str]:
    """What is wrong with an artifact or a package. Raises InputError for a folder that is neither."""
    if packaging.is_package(folder):
        return packaging.verify(folder, Path(public_key) if public_key else None)
    made = Artifact(folder)
    if not made.manifest_file.is_file():
        raise InputError(f"{folder} holds no manifest.json", hint="quantpress status lists the artifacts")
    if public_key:
        raise InputError(f"{folder} is no package, and only packages are signed", hint="quantpress package RECIPE")
    return upkeep.verify(made)


def sound(folder: Path, public_key: str | None) -> str:
    """What to say of an artifact or a package without problems."""
    if not packaging.is_package(folder):
        return "as made"
    if public_key:
        return "as packaged, and signed by the owner of the key"
    return "as packaged" + (
        "; the signature was not checked (--public-key)" if (folder / SIGNATURE).is_file() else "; not signed"
    )
