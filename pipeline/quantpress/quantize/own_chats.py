"""Chats that a model wrote itself to be calibrated on: where they are kept, and how an artifact keeps its own."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

from quantpress.artifact.manifest import Written
from quantpress.errors import InputError
from quantpress.recipe.recipe import OWN_DATASET, Recipe
from quantpress.runtime import atomic
from quantpress.runtime.cache import cache_folder, made_once

CHATS, ABOUT = "chats.jsonl", "about.json"
KEPT = "own-chats"  # below the cache, and below an artifact


def folder_of(revision: str) -> Path:
    """Where these chats are kept, or will be: of what decides them `revision` is the digest."""
    return cache_folder() / KEPT / revision


def file_of(revision: str) -> Path:
    """The chats. Raises InputError where they are not kept (any more)."""
    path = folder_of(revision) / CHATS
    if not path.is_file():
        raise InputError(
            f"calibration.dataset {OWN_DATASET} at revision {revision}: these chats are not in {folder_of(revision)}",
            hint="leave calibration.revision out, and the model writes chats anew",
        )
    return path


def about(revision: str) -> Written:
    """How they were written. Raises StageError for a file of the cache that is damaged."""
    return Written.model_validate(atomic.read_json(folder_of(revision) / ABOUT))


def keep(recipe: Recipe, artifact: Path) -> None:
    """Copies the chats that a recipe names into the artifact's folder: a cache may be emptied."""
    for source in recipe.calibration.sources if recipe.calibration else ():
        if source.dataset == OWN_DATASET and source.revision:
            shutil.copytree(folder_of(source.revision), artifact / KEPT / source.revision, dirs_exist_ok=True)


def restore(artifact: Path) -> None:
    """Copies what `keep` kept back into the cache, where it is not there any more."""
    for kept in sorted((artifact / KEPT).glob("[!.]*")):
        made_once(folder_of(kept.name), partial(_copy, kept))


def _copy(kept: Path, staged: Path) -> None:
    shutil.copytree(kept, staged, dirs_exist_ok=True)
