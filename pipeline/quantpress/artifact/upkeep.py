"""Looking after artifacts: what is there, whether it is still what was made, and what nothing refers to any more."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from quantpress.artifact import kept_blocks, manifest, online, own, recertification
from quantpress.artifact.accuracy import TRANSFORMERS_ONLY, Accuracy
from quantpress.artifact.manifest import Artifact, Manifest
from quantpress.artifact.results import results_of
from quantpress.artifact.throughput import UNFINISHED, Throughput
from quantpress.errors import StageError
from quantpress.runtime import atomic, locks, ownership


def artifacts(out: Path) -> list[Artifact]:
    """Every finished artifact below the root folder."""
    return [artifact for model in sorted(out.glob("*")) for artifact in manifest.artifacts_of(model)]


@dataclass(frozen=True)
class Status:
    """What is known of one artifact; all that its manifest would tell is None where `problem` says why it does not.

    `stage` is the last one that was run, `accuracy` and `throughput` name suites and workloads, `held_by` is the
    process that writes it at the moment.
    """

    model: str
    recipe: str
    age_s: int
    held_by: str | None
    problem: str | None = None
    digest: str | None = None
    created: str | None = None
    bytes: int | None = None
    stage: str | None = None
    accuracy: str | None = None
    throughput: str | None = None
    gates: str | None = None


def status(out: Path) -> list[Status]:
    """One row for each artifact below the root folder."""
    return [_status(artifact) for artifact in artifacts(out)]


def _status(artifact: Artifact) -> Status:
    age = round(time.time() - artifact.manifest_file.stat().st_mtime)
    known = Status(artifact.folder.parent.name, artifact.name, age, locks.lock_owner(artifact.folder))
    try:
        return _with_results(known, artifact, artifact.finished())
    except StageError as error:  # one damaged artifact must not hide the others
        return replace(known, problem=error.message)


def _with_results(known: Status, artifact: Artifact, made: Manifest) -> Status:
    scored, measured = results_of(artifact, Accuracy).all(), results_of(artifact, Throughput).all()
    return replace(
        known,
        digest=made.digest,
        created=made.created,
        bytes=made.bytes.checkpoint,
        stage="benched" if measured else "evaluated" if scored else "adopted" if made.adopted else "quantized",
        accuracy=", ".join(result.name for result in scored) or None,
        throughput=", ".join(result.name for result in measured) or None,
        gates=worst_decision(gate.decision for result in scored for gate in result.gates),
    )


def worst_decision(decisions: Iterable[str]) -> str | None:
    """The worst of several gates' decisions; None without gates."""
    decided = set(decisions)
    order = ("fail", "inconclusive", TRANSFORMERS_ONLY, "pass")
    return next((decision for decision in order if decision in decided), None)


def verify(artifact: Artifact) -> list[str]:
    """What differs between the checkpoint and its manifest, a line for each file; empty if every byte is as made."""
    try:
        expected = artifact.finished().files
    except StageError as error:
        return [error.message]
    folder = artifact.checkpoint
    present = set(ownership.entries(folder)) if ownership.is_folder(folder) else set()
    return manifest.file_problems(folder, expected, present, "made", by_size=True)


def garbage(out: Path) -> list[Path]:
    """What nothing refers to: what killed runs left or kept, scores that no accuracy.json names, and answered requests,
    which finished scores hold too (without them `--extend` asks again). Only what carries our mark
    (quantpress.artifact.own).

    Nothing of a model is listed while a process works below its folder, and no link is followed.
    """
    return [path for model in ownership.folders_in(out) if not _is_in_use(model) for path in _garbage_of(model)]


def _is_in_use(model: Path) -> bool:
    return any(map(locks.lock_owner, (model, *_lockable(model))))


def _garbage_of(model: Path) -> list[Path]:
    found = [left for folder in (model, *_folders_below(model)) for left in atomic.leftovers(folder)]
    found += kept_blocks.folders_below(model)
    named = _named(model)
    for keeps in _keeping_scores(model):
        found += own.requests_of(keeps)
        found += [keeps / UNFINISHED] if (keeps / UNFINISHED).is_file() else []
        found += [path for path in own.scores_of(keeps) if path.name not in named]
    return found


def _folders_below(model: Path) -> list[Path]:
    """The folders below a model's, without links and without what lies in folders of killed runs."""
    found = []
    for path in ownership.folders_in(model):
        if ".staging-" not in path.name:
            found += [path, *_folders_below(path)]
    return found


def _keeping_scores(model: Path) -> list[Path]:
    """The artifacts' folders and the one of the model itself."""
    folders = [artifact.folder for artifact in manifest.artifacts_of(model)]
    folders += [online.folder_of(model, method) for method in online.methods_in(model)]
    return [path for path in (*folders, model / "baseline") if ownership.is_folder(path)]


def _lockable(model: Path) -> list[Path]:
    """What the lock files below a model's folder stand for."""
    files = [path for folder in (model, *_folders_below(model)) for path in folder.glob(".*.lock")]
    return [path.with_name(path.name[1:].removesuffix(".lock")) for path in files]


def _named(model: Path) -> set[str]:
    """The names of the score folders that an accuracy.json of this model refers to."""
    results = [results_of(artifact, Accuracy) for artifact in manifest.artifacts_of(model)]
    results += [online.results_of(model, "", method, Accuracy) for method in online.methods_in(model)]
    paths = [path for one in results for path in one.files()]
    for artifact in manifest.artifacts_of(model):
        paths += [path for one in recertification.folders_in(artifact.folder) for path in one.glob("accuracy/*.json")]
    return {run.folder for path in paths for run in Accuracy.load(path).runs.values()}


def remove(out: Path, listed: Collection[Path]) -> list[Path]:
    """Removes what `garbage` listed and what is garbage still, and returns it: each model is looked at again while
    nobody can begin to work below its folder."""
    removed = []
    for model in ownership.folders_in(out):
        if not any(path.is_relative_to(model) for path in listed):
            continue
        with suppress(StageError), locks.lock(model):  # in use by now
            still = [] if any(map(locks.lock_owner, _lockable(model))) else _garbage_of(model)
            for path in still:
                if path in listed:
                    (atomic.discard if ".staging-" in path.name else ownership.remove)(path)
                    removed.append(path)
    return removed
