"""The workers of this room, what each is asked to do and what it finds. Light: those who call them import this."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from quantpress.runtime.records import Record
from quantpress.runtime.worker import Job, Result, Worker
from quantpress_evaluate.suite import ResolvedTask
from quantpress_serve.bench.workers import Likelihoods


class TasksJob(Job):
    """`output` is a folder for what is made on the way, `cache` the one that keeps the documents of local files."""

    tasks: list[ResolvedTask]
    output: Path
    cache: Path


class CheckedTasks(Result):
    """Groups are resolved into their tasks, each with the number of documents `available` and its `definition`."""

    tasks: list[ResolvedTask]


class Documents(Result):
    """How many documents each task has; they lie in the job's `output` as <task>.jsonl."""

    documents: dict[str, int]


class ServerAddress(Record):
    """A vLLM server, and what it calls the model."""

    url: str
    name: str


class ScoreJob(Job):
    """What to score, and how.

    `model` is the folder to load, `server` the one to ask instead (None: transformers computes). `max_length` and
    `window` are tokens; `window` is None where no likelihoods of the fixed text are wanted. `reference` is the folder
    with the baseline's scores (None: this is the baseline), `requests` the file that keeps answered requests, `output`
    the folder for the scores.
    """

    model: Path
    tasks: list[ResolvedTask]
    batch_size: int
    max_length: int
    chat_template: bool
    device: str
    compute_dtype: str
    window: int | None
    trust_remote_code: bool
    reference: Path | None
    requests: Path
    output: Path
    server: ServerAddress | None


class Scores(Result):
    """What lm-eval found: `scores` and `task_versions` in its own form, and the number of documents of each task.

    `likelihoods` are those of the fixed text (quantpress_serve's Likelihoods), where a window was given.
    """

    scores: dict[str, Any]
    documents: dict[str, int]
    task_versions: dict[str, Any]
    answered_before: int
    likelihoods: Likelihoods | None


class LayerErrorsJob(Job):
    """Two folders to load, each held in memory at 32 bits a weight."""

    model: Path
    checkpoint: Path
    trust_remote_code: bool = False


class MeasuredLayers(Result):
    """The relative squared error of each decoder layer, over so many tokens."""

    errors: list[float]
    tokens: int


TASKS = Worker("quantpress_evaluate.tasks_worker", TasksJob, CheckedTasks)
DOCUMENTS = Worker("quantpress_evaluate.documents_worker", TasksJob, Documents)
SCORE = Worker("quantpress_evaluate.score_worker", ScoreJob, Scores)
LAYER_ERRORS = Worker("quantpress_evaluate.layer_errors_worker", LayerErrorsJob, MeasuredLayers)
