"""What of an artifact's folder quantpress wrote: all else is somebody else's, and is neither replaced nor removed."""

from __future__ import annotations

import re
from pathlib import Path

from quantpress.artifact import recertification
from quantpress.artifact.manifest import SIGNATURE
from quantpress.runtime import ownership

_MANIFEST = "manifest.json"
_SCORE = "score.json"
_HEX = "[0-9a-f]{12}"
_REQUESTS = rf"\.requests-{_HEX}_rank\d+\.db(-journal|-wal|-shm)?"
# Beside the checkpoint's files and those of packages and scores, whose own marks list them.
_WRITTEN = re.compile(
    rf"""(
    manifest\.json | recipe\.resolved\.yaml | layer_errors\.json | shapes\.json | calibrations\.json
    | other-calibration\.json
    | (accuracy|throughput)(-incomplete|-unfinished)?\.json | (accuracy|throughput)/[^/]+\.json
    | likelihoods/{_HEX}\.json | logs/[^/]+\.log
    | own-chats/[^/]+/(chats\.jsonl|about\.json|\.quantpress\.json)
    | scores/\.looks\.json
    | scores/{_REQUESTS}
    | ([^/]+/)*\.[^/]+\.(lock|\d+\.tmp)           # locks, and what a killed run did not finish writing
    | ([^/]+/)*\.[^/]+\.staging-[^/]+/.*          # the same of folders
    )""",
    re.VERBOSE,
)
_SCORED = re.compile(
    r"next_tokens\.npy|likelihoods\.json|samples\.json|samples_[^/]+\.jsonl\.gz|tasks/[^/]+\.yaml"
    r"|lm_eval/[^/]+/results_[^/]+\.json"
)


def strangers(folder: Path) -> list[str]:
    """What in an artifact's folder is not ours, by relative name: everything, where manifest.json is no mark."""
    names = ownership.entries(folder)
    files = ownership.marked_files(folder / _MANIFEST)
    if files is None:
        return names
    ours = {f"checkpoint/{name}" for name in files} | _in_package(folder / "package")
    ours |= {f"scores/{one.name}/{name}" for one in _folders_of_scores(folder) for name in _scored(one)}
    ours |= {
        f"{one.relative_to(folder)}/{name}"
        for one in recertification.folders_in(folder)
        for name in recertification.files_of(one)
    }
    return [name for name in names if name not in ours and not _WRITTEN.fullmatch(name)]


def _in_package(folder: Path) -> set[str]:
    files = ownership.marked_files(folder / _MANIFEST)
    return set() if files is None else {f"package/{name}" for name in (*files, _MANIFEST, SIGNATURE)}


def _folders_of_scores(keeps: Path) -> list[Path]:
    folder = keeps / "scores"
    return ownership.folders_in(folder) if ownership.is_folder(folder) else []


def _scored(folder: Path) -> list[str]:
    """The files of a folder of scores that are ours; none without its mark, which names the folder."""
    if ownership.mark_in(folder / _SCORE).get("folder") != folder.name:
        return []
    return [name for name in ownership.entries(folder) if name == _SCORE or _SCORED.fullmatch(name)]


def score_strangers(folder: Path) -> list[str]:
    """The same of one folder of scores."""
    ours = set(_scored(folder))
    return [name for name in ownership.entries(folder) if name not in ours]


def scores_of(keeps: Path) -> list[Path]:
    """The folders of scores below an artifact (or below the model's own, `baseline`) that are ours, whole."""
    return [folder for folder in _folders_of_scores(keeps) if _scored(folder) and not score_strangers(folder)]


def requests_of(keeps: Path) -> list[Path]:
    """The files of answered requests there."""
    folder = keeps / "scores"
    if not ownership.is_folder(folder):
        return []
    files = [path for path in sorted(folder.iterdir()) if ownership.is_regular(path)]
    return [path for path in files if re.fullmatch(_REQUESTS, path.name)]
