"""recertified/<engine>/recertification.json: the same checkpoint on another engine, held against what is on record.

The record of the artifact stays as it is. Beside this one lie the results that it was made from (accuracy.json,
throughput.json) and, where it was signed, the signature over all of them.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, Literal

from pydantic import Field

from quantpress.artifact.accuracy import Comparison, Gate
from quantpress.artifact.manifest import SIGNATURE, Artifact
from quantpress.artifact.served import Served
from quantpress.artifact.throughput import Executable
from quantpress.errors import StageError, slug
from quantpress.runtime import digests, ownership
from quantpress.runtime.environment import Machine
from quantpress.runtime.records import Record, Stored

FOLDER, RECORD = "recertified", "recertification.json"
# Where the figures before come from: the old engine, measured again in turns with the new one, or what it left behind.
IN_PAIRS: Final = "in pairs"
ON_RECORD: Final = "on record"
Source = Literal["in pairs", "on record"]


class Engine(Record):
    """A vLLM that served: its executable or its URL, and its version ("unknown" where nobody says it)."""

    served_by: str
    version: str

    @classmethod
    def of(cls, vllm: Executable) -> Engine:
        return cls(served_by=vllm.executable, version=vllm.version)

    @property
    def name(self) -> str:
        """What a folder of its own is called: the version, or what tells engines apart whose version nobody says."""
        if self.version == "unknown":
            return f"unknown-{digests.sha256_json(self.served_by)[:8]}"
        return slug(self.version)


class AnswerPair(Record):
    """What both engines answered to a question of the chat check."""

    question: str
    before: str
    after: str

    @property
    def same(self) -> bool:
        return self.before == self.after


class LikelihoodPair(Record):
    """Mean log-likelihoods of the fixed text by both engines, in nats a token.

    `difference` is after minus before, with its 95% `interval`; `per_token` the mean of the absolute differences. Both
    are None where the record holds the mean alone; where a likelihood is not finite, so is the mean.
    """

    source: Source
    tokens: int
    before: float | None
    after: float | None
    difference: float | None
    interval: tuple[float, float] | None = None
    per_token: float | None = None
    bound: float
    moved: bool


class Rescored(Record):
    """One suite: the answers on record against those of the new engine, document by document.

    `comparison` has the record as its baseline and the new engine as its candidate; None where the answers on record
    cannot be compared. `moved` names the tasks whose scores chance alone would hardly have moved. `backend` is what
    scored on record.
    """

    suite: str
    backend: str
    comparison: Comparison | None
    moved: list[str]


class SpeedPair(Record):
    """One level of load. `figure` says what is compared, and at which load: tokens/s of both engines, or how many times
    as fast as the unquantized model beside it each of them served the checkpoint.

    `ratio` is after over before with its 95% interval, None where they were not measured in pairs.
    """

    figure: str
    before: float | None
    after: float | None
    ratio: float | None = None
    interval: tuple[float, float] | None = None
    verdict: str
    moved: bool


class Speeds(Record):
    """Under the workload of the record; `note` says how both were compared, and why not in pairs if they were not."""

    source: Source
    workload: str
    note: str
    rows: list[SpeedPair]


class GateAgain(Record):
    """A gate as it stood on record and as it stands on the new engine. `before` is None for one that is new."""

    suite: str
    before: Gate | None
    after: Gate

    @property
    def lost(self) -> bool:
        """Whether it was passed and is no more."""
        return self.before is not None and self.before.decision == "pass" and self.after.decision != "pass"


class Recertification(Stored):
    """What became of a checkpoint's results on another engine.

    `manifest` is the sha256 of manifest.json, which lists every file of the checkpoint with its own; `recorded` those
    of the results that were on record, and `files` those of the results beside this file, by name. `key` names
    everything that it depends on. `moved` and `unknown` are sentences: what moved beyond noise, and what could not be
    compared, with the reason. `served` is whether the new engine computes what transformers does.
    """

    SCHEMA_VERSION = 1

    key: str
    checkpoint_digest: str
    manifest: str
    recorded: dict[str, str]
    files: dict[str, str]
    before: Engine | None
    after: Engine
    answers: list[AnswerPair] = Field(default_factory=list)
    likelihoods: LikelihoodPair | None = None
    served: Served | None = None
    accuracy: list[Rescored] = Field(default_factory=list)
    speeds: Speeds | None = None
    gates: list[GateAgain] = Field(default_factory=list)
    moved: list[str]
    unknown: list[str]
    verdict: Literal["holds", "moved"]
    created: str
    machine: Machine

    @property
    def same_answers(self) -> int:
        """How many answers of the chat check are the same, letter for letter."""
        return sum(pair.same for pair in self.answers)


def folder_of(artifact: Artifact, engine: str) -> Path:
    """Where the recertification on an engine of this name is, or will be."""
    return artifact.folder / FOLDER / engine


def is_recertification(folder: Path) -> bool:
    """Whether the folder says of itself that it holds one."""
    return ownership.is_regular(folder / RECORD)


def folders_in(artifact_folder: Path) -> list[Path]:
    """The folders of an artifact's recertifications, without links and without what killed runs left."""
    found = ownership.folders_in(artifact_folder / FOLDER) if ownership.is_folder(artifact_folder / FOLDER) else []
    return [path for path in found if not path.name.startswith(".") and is_recertification(path)]


def recertifications_of(artifact: Artifact) -> list[tuple[Path, Recertification]]:
    """Those of this very checkpoint, the newest first, with their folders. Raises StageError for a damaged one."""
    digest = artifact.finished().digest
    found = [(path, Recertification.load(path / RECORD)) for path in folders_in(artifact.folder)]
    current = [one for one in found if one[1].checkpoint_digest == digest]
    return sorted(current, key=lambda one: one[1].created, reverse=True)


def files_of(folder: Path) -> set[str]:
    """The relative names of the files that belong to a recertification: its record, what that lists, and its
    signature, whether there is one or not."""
    return {RECORD, SIGNATURE, *(ownership.marked_files(folder / RECORD) or ())}


def strangers(folder: Path) -> list[str]:
    """What in the folder of a recertification is not ours."""
    ours = files_of(folder)
    return [name for name in ownership.entries(folder) if name not in ours]


def problems(folder: Path) -> list[str]:
    """What is not as it was written, a line for each file: the results beside the record, and the manifest of the
    artifact that it lies in. A signature may lie beside them."""
    try:
        record = Recertification.load(folder / RECORD)
    except StageError as error:
        return [error.message]
    found = [f"{name}: not in {RECORD}" for name in strangers(folder)]
    for name, expected in record.files.items():
        found += _changed(folder / name, name, expected)
    return found + _changed(
        folder.absolute().parents[1] / "manifest.json", "the artifact's manifest.json", record.manifest
    )


def _changed(path: Path, name: str, expected: str) -> list[str]:
    if not os.path.lexists(path):
        return [f"{name}: missing"]
    if not ownership.is_regular(path):
        return [f"{name}: a link or no file"]
    digest = digests.sha256_file(path)
    return [] if digest == expected else [f"{name}: sha256 {digest[:12]}, recertified with {expected[:12]}"]
