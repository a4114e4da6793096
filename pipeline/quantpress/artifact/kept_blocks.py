"""Finished blocks of a calibration, kept beside the artifact until its checkpoint is published.

`OUT/<model>/.<recipe>.blocks/` holds a mark, which says what the blocks come from, and a safetensors file for each
finished block: every tensor in it that is no longer as it was loaded. A modifier that needs data runs through all
blocks (an epoch, as llmcompressor calls it); the next one's block replaces the file of the one before.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from quantpress.runtime import atomic, environment, foreign, ownership
from quantpress.runtime.records import Record

MARK = ".quantpress.json"
_OURS = re.compile(r"\.quantpress\.json|\d{5}\.safetensors|\.\d{5}\.safetensors\.\d+\.tmp")
_UNFINISHED_MARK = re.compile(r"\.\.quantpress\.json\.\d+\.tmp")
_METADATA = "quantpress"
# What of a machine decides the last bits, beside torch's threads and instructions.
_DECISIVE = ("processor", "cores", "gpus", "system")


class Origin(Record):
    """What the bytes of blocks come from: the digest of the inputs, the machine, and how torch computes there."""

    digest: str
    machine: dict[str, Any]
    threads: int
    instructions: str


class Mark(Record):
    """What makes a folder of blocks ours; `since` is when the first one was kept, in UTC."""

    blocks_of: Origin
    since: str


class Block(Record):
    """A finished block, and how far the run was then, after so many `seconds`.

    `said` are llmcompressor's warnings up to here, `counted` the experts' tokens, `modifiers` what a modifier remembers
    of its blocks until its end, by epoch.
    """

    epoch: int
    block: int
    blocks: int
    seconds: float = 0.0
    said: list[str] = Field(default_factory=list)
    counted: dict[str, dict[str, int]] = Field(default_factory=dict)
    modifiers: dict[str, dict[str, Any]] = Field(default_factory=dict)


@dataclass(frozen=True)
class Standing:
    """Where a run goes on: at `block` (from 0) of `blocks` in this epoch."""

    epoch: int = 0
    block: int = 0
    blocks: int = 0

    def __str__(self) -> str:
        where = f"block {self.block + 1} of {self.blocks}"
        return f"{where} in pass {self.epoch + 1} through them" if self.epoch else where


def folder_of(artifact: Path) -> Path:
    """The folder of an artifact's blocks, whether it is there or not."""
    return artifact.with_name(f".{artifact.name}.blocks")


def folders_below(model: Path) -> list[Path]:
    """Those of all artifacts of a model that hold nothing but what we wrote."""
    found = [path for path in ownership.folders_in(model) if path.name.startswith(".") and path.suffix == ".blocks"]
    return [path for path in found if mark_of(path) and not strangers(path)]


def strangers(folder: Path) -> list[str]:
    """What in such a folder is not ours, by relative name: everything where it has no mark."""
    names = [name for name in ownership.entries(folder) if not _UNFINISHED_MARK.fullmatch(name)]
    return names if mark_of(folder) is None else [name for name in names if not _OURS.fullmatch(name)]


def mark_of(folder: Path) -> Mark | None:
    """What the blocks come from; None where nothing is kept."""
    try:
        return Mark.model_validate(ownership.mark_in(folder / MARK))
    except ValidationError:
        return None


def begin(folder: Path, mark: Mark) -> None:
    """Makes the folder ours; the first file in it."""
    atomic.write_json(folder / MARK, mark.dump())


def machine() -> dict[str, Any]:
    """What of this machine decides the last bits."""
    here = environment.machine().dump()
    return {name: here[name] for name in _DECISIVE}


def file_of(folder: Path, block: int) -> Path:
    return folder / f"{block:05d}.safetensors"


def metadata(block: Block) -> dict[str, str]:
    """How a block's file says what it is."""
    return {_METADATA: json.dumps(block.dump())}


def read(path: Path) -> Block | None:
    """What a block's file says it is, read from its header alone; None where it is missing or damaged."""
    try:
        with path.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = foreign.parsed(stream.read(min(length, foreign.LARGEST)).decode())
        return Block.model_validate_json(header["__metadata__"][_METADATA])
    except (OSError, ValueError, LookupError, TypeError, struct.error):
        return None


def read_all(folder: Path) -> list[Block]:
    """The blocks in their order, up to the first that is missing or damaged."""
    found: list[Block] = []
    while (block := read(file_of(folder, len(found)))) and block.block == len(found):
        found.append(block)
    return found


def standing(found: Sequence[Block]) -> Standing:
    """Where a run goes on that has these blocks: the beginning where they are no whole.

    Later epochs begin with the blocks of the one before, so that without any of those nothing is of use.
    """
    if not found:
        return Standing()
    epoch, blocks = found[0].epoch, found[0].blocks
    done = sum(block.epoch == epoch for block in found)
    expected = [epoch] * done + [epoch - 1] * (len(found) - done)
    whole = len(found) == blocks or (epoch == 0 and len(found) < blocks)
    if not whole or [block.epoch for block in found] != expected:
        return Standing()
    return Standing(epoch + 1, 0, blocks) if done == blocks else Standing(epoch, done, blocks)
