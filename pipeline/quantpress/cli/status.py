"""`quantpress status`: list the artifacts with their results and age."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from quantpress.cli.options import Commands, add_flags, add_out
from quantpress.errors import InputError, StageError

if TYPE_CHECKING:
    from quantpress.artifact.upkeep import Status


@dataclass(frozen=True)
class Options:
    out: Path


def add(commands: Commands) -> None:
    parser = commands.add_parser("status", help="list the artifacts with their results and age")
    add_out(parser)
    add_flags(parser)


def run(options: Options) -> None:
    from quantpress.artifact import upkeep
    from quantpress.report.views import markdown
    from quantpress.runtime.console import show

    rows = upkeep.status(existing(options.out))
    header = ["model", "recipe", "age", "held by", "stage", "digest", "size", "accuracy", "throughput", "gates"]
    lines = [_line(row) for row in rows]
    text = markdown.table(header, lines, len(header)) if rows else f"{options.out} holds no artifact"
    show([vars(row) for row in rows], text)
    if any(row.problem for row in rows):
        raise StageError(
            "an artifact cannot be read", hint="restore the file that is named, or move it away and run its stage again"
        )


def _line(row: Status) -> list[str]:
    line = [row.model, row.recipe, f"{row.age_s / 3600:.1f} h", row.held_by or "-"]
    if row.problem:
        return [*line, f"damaged: {row.problem}", *["-"] * 5]
    line += [str(row.stage), str(row.digest)[:12], f"{(row.bytes or 0) / 1e6:.0f} MB"]
    return [*line, row.accuracy or "-", row.throughput or "-", row.gates or "-"]


def existing(out: Path) -> Path:
    """The artifacts' root folder. Raises InputError if there is none."""
    if not out.is_dir():
        raise InputError(f"--out {out} is not a folder", hint="name the folder that holds the artifacts")
    return out
