"""`quantpress verify`: check every byte of artifacts and packages."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from quantpress.cli.options import Commands, add_flags, add_out
from quantpress.errors import InputError, StageError, listed


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
        help="artifacts, packages or recertifications (default: all artifacts below --out)",
    )
    parser.add_argument("--public-key", type=Path, metavar="KEY.pem", help="check the signature of a package as well")
    add_out(parser)
    add_flags(parser)


def run(options: Options) -> None:
    from quantpress.artifact import upkeep
    from quantpress.cli.status import existing
    from quantpress.runtime.console import show

    chosen = options.artifacts or [artifact.folder for artifact in upkeep.artifacts(existing(options.out))]
    found = {str(folder): _verified(folder, options.public_key) for folder in chosen}
    lines = [f"{name}: {'; '.join(one.problems) or one.sound}" for name, one in found.items()]
    show({name: vars(one) for name, one in found.items()}, "\n".join(lines) or f"{options.out} holds no artifact")
    if any(one.problems and Path(name).absolute().parent.name == "snapshots" for name, one in found.items()):
        raise StageError(
            "in the hub's cache every file is a link to another folder, and what a link leads to is not vouched for",
            hint="download it with the hub's client into a folder of its own, and verify that",
        )
    if any(one.problems for one in found.values()):
        raise StageError(
            "an artifact is not what was made",
            hint="put back what is missing or changed, and move away what was added; where that cannot be, move its "
            "folder away, and quantpress quantize or package makes it again",
        )


@dataclass(frozen=True)
class _Verified:
    """`how` it came to be: "made", "packaged" or "recertified". `problems` are what is wrong; `signature` says whether
    somebody answers for it (build.Verified), and is None for an artifact, which is not signed; `shared` are files with
    other names too, which must not be changed in place."""

    how: str
    problems: list[str]
    signature: str | None
    shared: list[str]

    @property
    def sound(self) -> str:
        """What to say of an artifact or a package without problems."""
        said = {
            None: "",
            "signed": ", and signed by the owner of the key",
            "not checked": "; the signature was not checked (--public-key)",
            "unsigned": "; not signed: that nothing is damaged is known, not who made it",
        }[self.signature]
        links = f"; {listed(self.shared)} are hard links that others hold too (a package, a source): do not edit"
        return f"as {self.how}{said}{links if self.shared else ''}"


def _verified(folder: Path, public_key: Path | None) -> _Verified:
    """What is wrong with an artifact or a package. Raises InputError for a folder that is neither."""
    from quantpress.artifact import recertification, upkeep
    from quantpress.artifact.manifest import Artifact
    from quantpress.package import build
    from quantpress.package.signing import recertified
    from quantpress.runtime import copying

    if build.is_package(folder):
        found = build.verified(folder, public_key)
        return _Verified("packaged", found.problems, found.signature, copying.shared(folder))
    if recertification.is_recertification(folder):
        wrong, signed = recertified(folder, public_key)
        return _Verified("recertified", wrong, signed, [])
    made = Artifact(folder)
    if not made.manifest_file.is_file():
        raise InputError(f"{folder} holds no manifest.json", hint="quantpress status lists the artifacts")
    if public_key:
        raise InputError(
            f"{folder} is neither a package nor a recertification, and only these are signed",
            hint="quantpress package RECIPE",
        )
    shared = copying.shared(made.checkpoint) if made.checkpoint.is_dir() else []
    return _Verified("made", upkeep.verify(made), None, shared)
