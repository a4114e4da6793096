"""`quantpress reproduce`: make an artifact again from its manifest and compare."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from quantpress.cli.options import Commands, add_flags, add_trust
from quantpress.errors import StageError


@dataclass(frozen=True)
class Options:
    artifact: Path
    trust_remote_code: bool


def add(commands: Commands) -> None:
    parser = commands.add_parser("reproduce", help="make an artifact again from its manifest and compare")
    parser.add_argument("artifact", type=Path, metavar="FOLDER", help="an artifact's folder, with its manifest.json")
    add_trust(parser)
    add_flags(parser)


def run(options: Options) -> None:
    from quantpress.artifact.manifest import Artifact
    from quantpress.quantize.reproduce import reproduce
    from quantpress.runtime.console import show

    result = reproduce(Artifact(options.artifact), options.trust_remote_code)
    differing, far = result.differing_tensors, result.beyond_bound
    text = "byte-identical"
    if differing:
        text = (
            f"{len(differing)} tensors differ, first {differing[0]}; {len(far)} of them by more than the stated bound"
        )
    if not result.promised:
        text += f" (equal bits are not promised here: {', '.join(result.why_not_promised)} changed)"
    show(result.dump(), f"{options.artifact}: {text}")
    if far or (result.promised and not result.identical):
        raise StageError("the rebuilt checkpoint differs", hint="compare the logs of both runs; report this")
