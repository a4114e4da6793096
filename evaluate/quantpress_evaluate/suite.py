"""A suite: which tasks to score, and how, as data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from quantpress import files, located_yaml, shipped
from quantpress.errors import InputError
from quantpress.modifiers import Strict

HINT = "correct the suite; evaluate/suites/commonsense.yaml is one that works"


class Task(Strict):
    """One task: an lm-eval task (or group) by name; or, with `like` and `data`, that task's format on documents of
    one's own.

    `num_fewshot` and `limit` stand before the suite's; `documents` are exact document ids; `filter` is one of
    lm-eval's, for tasks that extract the answer in several ways; `weight` is the task's share in the suite's figures.
    """

    task: str = Field(pattern=r"^[A-Za-z0-9_.-]+$")
    metric: Literal["acc", "acc_norm", "exact_match", "word_perplexity", "byte_perplexity"] = "acc"
    filter: str | None = None
    like: str | None = None
    data: str | None = None
    num_fewshot: int | None = Field(default=None, ge=0)
    limit: int | None = Field(default=None, ge=1)
    documents: list[Annotated[int, Field(ge=0)]] | None = Field(default=None, min_length=1)
    weight: float = Field(default=1.0, gt=0)

    @model_validator(mode="after")
    def _one_way_to_choose(self) -> Task:
        if self.documents is not None and self.limit is not None:
            raise ValueError("limit and documents both choose documents; give one of them")
        if self.documents is not None and len(set(self.documents)) < len(self.documents):
            raise ValueError("a document is named twice")
        return self


class Suite(Strict):
    """`max_length`: tokens of context; longer documents are cut on the left, longer texts read in windows, and a model
    with less has less. `chat_template`: questions are put as a chat. `count_no_signal`: tasks on which the
    unquantized model only guesses count too. `backend`: what computes the likelihoods, see docs/design.md.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")
    description: str = Field(min_length=1)
    tasks: list[Task] = Field(min_length=1)
    num_fewshot: int | None = Field(default=None, ge=0)
    limit: int | None = Field(default=None, ge=1)
    batch_size: int = Field(default=16, ge=1)
    max_length: int = Field(default=4096, ge=16)
    chat_template: bool = False
    count_no_signal: bool = False
    backend: Literal["auto", "hf", "vllm"] = "auto"
    gates: list[str] = Field(default=[])

    @model_validator(mode="after")
    def _distinct(self) -> Suite:
        names = [task.task for task in self.tasks]
        if doubled := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"task {', '.join(doubled)} is there twice")
        return self


def load(name: str) -> tuple[Suite, Path]:
    """Reads and validates a suite: a path or a shipped name. Raises InputError with every problem in the file."""
    path = shipped.find("suites", name)
    document = located_yaml.load(path, files.read_input(path), HINT)
    return located_yaml.validate(document, Suite, HINT), path


def resolve_tasks(
    suite: Suite, suite_file: Path, data_folder: Path | None, limit: int | None = None
) -> list[dict[str, Any]]:
    """Each task with every choice made: the file its documents come from (None: the hub or its cache), that file's
    digest, how many documents and examples.

    `data_folder` holds <task>.jsonl files in the hub's schema; `limit` stands before the suite's and the tasks' own.
    Raises InputError for a data file that is missing.
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
                "filter": task.filter,
                "num_fewshot": suite.num_fewshot if task.num_fewshot is None else task.num_fewshot,
                "limit": None if task.documents else limit or task.limit or suite.limit,
                "documents": sorted(task.documents) if task.documents else None,
                "weight": task.weight,
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
