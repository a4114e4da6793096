"""Looking after artifacts: what is there, whether it is still what was made, and what nothing refers to any more."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

from quantpress import files, manifest
from quantpress.manifest import Artifact


def artifacts(out: Path) -> list[Artifact]:
    """Every finished artifact below the root folder."""
    return [Artifact(path.parent) for path in sorted(out.glob("*/*/manifest.json"))]


def status(out: Path) -> list[dict[str, Any]]:
    """One row for each artifact: its model, recipe, digest, age, results, and who is writing it at the moment."""
    rows = []
    for artifact in artifacts(out):
        record = artifact.finished()
        accuracy, throughput = artifact.result("accuracy"), artifact.result("throughput")
        rows.append(
            {
                "model": artifact.folder.parent.name,
                "recipe": artifact.name,
                "digest": record["digest"],
                "created": record["created"],
                "age_s": round(time.time() - artifact.manifest_file.stat().st_mtime),
                "bytes": record["bytes"]["checkpoint"],
                "accuracy": accuracy["suite"] if accuracy else None,
                "throughput": throughput["workload"]["name"] if throughput else None,
                "held_by": files.lock_owner(artifact.folder),
            }
        )
    return rows


def verify(artifact: Artifact) -> list[str]:
    """What differs between the checkpoint and its manifest, a line for each file; empty if every byte is as made."""
    record = artifact.finished()
    expected, found = record["files"], manifest.file_table(artifact.checkpoint)
    problems = [f"{name}: missing" for name in sorted(expected.keys() - found.keys())]
    problems += [f"{name}: not in the manifest" for name in sorted(found.keys() - expected.keys())]
    for name in sorted(expected.keys() & found.keys()):
        if expected[name]["bytes"] != found[name]["bytes"]:
            problems.append(f"{name}: {found[name]['bytes']} bytes, made with {expected[name]['bytes']}")
        elif expected[name]["sha256"] != found[name]["sha256"]:
            problems.append(f"{name}: sha256 {found[name]['sha256'][:12]}, made with {expected[name]['sha256'][:12]}")
    return problems


def garbage(out: Path) -> list[Path]:
    """Folders that nothing refers to: what killed runs left, and scores that no accuracy.json names.

    Nothing that a running process holds is listed.
    """
    found = [path for path in sorted(out.glob("*/.*.staging-*")) if not _held(path.parent, path.name)]
    found += [path for path in sorted(out.glob("*/*/.*.staging-*")) if not files.lock_owner(path.parent)]
    named = {
        Path(run["folder"]).resolve()
        for artifact in artifacts(out)
        if (accuracy := artifact.result("accuracy"))
        for run in accuracy["runs"].values()
    }
    return found + [path for path in sorted(out.glob("*/*/scores/*")) if path.resolve() not in named]


def _held(folder: Path, staging_name: str) -> bool:
    name = staging_name.removeprefix(".").rpartition(".staging-")[0]
    return files.lock_owner(folder / name) is not None


def remove(paths: list[Path]) -> None:
    for path in paths:
        shutil.rmtree(path)
