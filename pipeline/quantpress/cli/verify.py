"""`quantpress verify`: check every byte of artifacts and packages."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from quantpress.cli.options import Commands, add_flags, add_out
from quantpress.errors import InputError, StageError


@dataclass(frozen=True)
class Options:
    artifacts: list[Path]
    public_key: Path | None
    out: Path


def add(commands: Commands) -> None:
    parser = commands.add_parser("verify", help="check every byte of artifacts and packages")
    parser.add_argument(
        "artifacts",
        type=Path,
        nargs="*",
        metavar="FOLDER",
        help="artifacts or packages (default: all artifacts below --out)",
    )
    parser.add_argument("--public-key", type=Path, metavar="KEY.pem", help="check the signature of a package as well")
    add_out(parser)
    add_flags(parser)


def run(options: Options) -> None:
    from quantpress.artifact import upkeep
    from quantpress.cli.status import existing
    from quantpress.runtime.console import show

    chosen = options.artifacts or [artifact.folder for artifact in upkeep.artifacts(existing(options.out))]
    problems = {str(folder): _problems(folder, options.public_key) for folder in chosen}
    sound = {str(folder): _sound(folder, options.public_key) for folder in chosen}
    lines = [f"{name}: {'; '.join(found) or sound[name]}" for name, found in problems.items()]
    show(problems, "\n".join(lines) or f"{options.out} holds no artifact")
    if any(problems.values()):
        raise StageError(
            "an artifact is not what was made", hint="delete its folder; quantpress quantize or package makes it again"
        )


def _problems(folder: Path, public_key: Path | None) -> list[str]:
    """What is wrong with an artifact or a package. Raises InputError for a folder that is neither."""
    from quantpress.artifact import upkeep
    from quantpress.artifact.manifest import Artifact
    from quantpress.package import build

    if build.is_package(folder):
        return build.verify(folder, public_key)
    made = Artifact(folder)
    if not made.manifest_file.is_file():
        raise InputError(f"{folder} holds no manifest.json", hint="quantpress status lists the artifacts")
    if public_key:
        raise InputError(f"{folder} is no package, and only packages are signed", hint="quantpress package RECIPE")
    return upkeep.verify(made)


def _sound(folder: Path, public_key: Path | None) -> str:
    """What to say of an artifact or a package without problems."""
    from quantpress.package import build
    from quantpress.package.signing import SIGNATURE

    if not build.is_package(folder):
        return "as made"
    if public_key:
        return "as packaged, and signed by the owner of the key"
    signed = (folder / SIGNATURE).is_file()
    return "as packaged; " + ("the signature was not checked (--public-key)" if signed else "not signed")
