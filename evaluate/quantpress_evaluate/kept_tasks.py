"""The tasks of a request as lm-eval knows them, kept between runs, and believed only as far as they were made by us.

A task's definition is YAML for lm-eval, and YAML that it includes may name Python functions (`!function`). So what is
kept may include lm-eval's own tasks and ours, and documents from the cache, and say nothing else.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from quantpress.language import shipped
from quantpress.runtime import atomic, console
from quantpress.runtime.cache import cache_folder
from quantpress.runtime.records import Record
from quantpress_evaluate.suite import ResolvedTask

_SPLITS = {"training_split", "validation_split", "test_split", "fewshot_split"}
_ON_DOCUMENTS = {"include", "task", "dataset_path", "dataset_name", "dataset_kwargs", *_SPLITS}


# Raise this when the shape of KnownTasks changes, or tasks_worker refuses what it took before.
KNOWN_TASKS = 7


class KnownTasks(Record):
    """The tasks of a request as lm-eval knows them: kept, for asking it takes seconds."""

    tasks: list[ResolvedTask] = Field(min_length=1)


def kept_tasks(kept: Path) -> list[ResolvedTask] | None:
    """None where nothing is kept yet, or a file that is damaged or that we did not write: lm-eval is asked again."""
    known = atomic.read_kept(kept)
    if known is None:
        return None
    try:
        tasks = KnownTasks.model_validate(known).tasks
    except ValidationError:
        tasks = []
    if tasks and all(is_ours(task.definition) for task in tasks):
        return tasks
    console.say(f"  {kept} is not what quantpress keeps there: lm-eval is asked again")
    return None


def is_ours(definition: dict[str, Any] | None) -> bool:
    """Whether a definition is of the form that tasks_worker makes, and includes installed tasks and nothing else."""
    if definition is None:
        return True
    if not _is_installed(definition.get("include")) or not isinstance(definition.get("task"), str):
        return False
    if definition.keys() == {"include", "task"}:
        return True
    return (
        definition.keys() == _ON_DOCUMENTS
        and definition["dataset_path"] == "parquet"
        and definition["dataset_name"] is None
        and all(definition[name] is None or str(definition[name]).isidentifier() for name in _SPLITS)
        and _is_of_the_cache(definition["dataset_kwargs"])
    )


def _is_installed(include: object) -> bool:
    """Whether it is a file of lm-eval's tasks or of ours."""
    found = importlib.util.find_spec("lm_eval")
    folders = [Path(place) for place in (found.submodule_search_locations or [] if found else [])]
    return isinstance(include, str) and any(_is_below(include, one) for one in (*folders, shipped.folder("tasks")))


def _is_of_the_cache(options: object) -> bool:
    """Whether lm-eval is to read one table of the cache, and to keep what it makes of it there."""
    if not isinstance(options, dict) or options.keys() != {"data_files", "cache_dir"}:
        return False
    files = options["data_files"]
    named = [options["cache_dir"], *files.values()] if isinstance(files, dict) else [None]
    return all(isinstance(one, str) and _is_below(one, cache_folder() / "datasets") for one in named)


def _is_below(path: str, folder: Path) -> bool:
    return Path(path).is_absolute() and Path(path).resolve().is_relative_to(folder.resolve())
