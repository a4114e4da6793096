"""A suite: which tasks to score, and how, as data."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from quantpress import files, located_yaml, shipped
from quantpress.errors import InputError
from quantpress.modifiers import Strict

HINT = "correct the suite; evaluate/suites/commonsense.yaml is one that works"


class Task(Strict):
    """One task: an lm-eval task by name; or, with `like` and `data`, that task's format on documents of one's own."""

    task: str = Field(pattern=r"^[A-Za-z0-9_.-]+$")
    metric: Literal["acc", "acc_norm"] = "acc"
    like: str | None = None
    data: str | None = None


class Suite(Strict):
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")
    description: str = Field(min_length=1)
    tasks: list[Task] = Field(min_length=1)
    num_fewshot: int | None = Field(default=None, ge=0)
    limit: int | None = Field(default=None, ge=1)
    batch_size: int = Field(default=16, ge=1)
    gates: list[str] = Field(default=[])


def load(name: str) -> tuple[Suite, Path]:
    """Reads and validates a suite: a path or a shipped name. Raises InputError with every problem in the file."""
    path = shipped.find("suites", name)
    document = located_yaml.load(path, files.read_input(path), HINT)
    return located_yaml.validate(document, Suite, HINT), path


def resolve_tasks(suite: Suite, suite_file: Path, data_folder: Path | None) -> list[dict[str, Any]]:
    """Each task with the file its documents come from (None: the hub or its cache) and that file's digest.

    `data_folder` holds <task>.jsonl files in the hub's schema. Raises InputError for a data file that is missing.
    """
    if data_folder and not data_folder.is_dir():
        raise InputError(
            f"{data_folder} is not a folder", hint="--data and QUANTPRESS_DATA name a folder of JSONL files"
        )
    resolved = []
    for task in suite.tasks:
        path = _data_file(task, suite_file, data_folder)
        resolved.append(
            {
                "task": task.task,
                "like": task.like or task.task,
                "metric": task.metric,
                "data": str(path.resolve()) if path else None,
                "sha256": files.sha256_file(path) if path else None,
            }
        )
    return resolved


def _data_file(task: Task, suite_file: Path, data_folder: Path | None) -> Path | None:
    if task.data:
        path = suite_file.parent / task.data
        if not path.is_file():
            raise InputError(f"task {task.task}: {path}: no such file", hint=HINT)
        return path
    if data_folder:
        path = data_folder / f"{task.task}.jsonl"
        if not path.is_file():
            raise InputError(
                f"{data_folder} holds no {task.task}.jsonl", hint="add it, or unset QUANTPRESS_DATA to use the hub"
            )
        return path
    return None
