"""A suite: which tasks to score, and how, as data."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from quantpress.artifact.accuracy import ScoredTask
from quantpress.errors import InputError
from quantpress.language import lines, shipped
from quantpress.language.document import load_yaml
from quantpress.language.validation import Line, Strict, validate
from quantpress.runtime import atomic, digests
from quantpress_evaluate import sampling

HINT = "correct the suite; evaluate/suites/commonsense.yaml is one that works"
_DOCUMENTS = "each line is a JSON object with the fields of the hub's data set"


class Task(Strict):
    """One task: an lm-eval task (or group) by name; or, with `like` and `data`, that task's format on documents of
    one's own."""

    task: str = Field(pattern=r"^[A-Za-z0-9_.-]+$", description="lm-eval's name; with `like`, a name of your own.")
    metric: Literal["acc", "acc_norm", "exact_match", "word_perplexity", "byte_perplexity"] = Field(
        default="acc", description="What is compared."
    )
    filter: str | None = Field(default=None, description="lm-eval's filter; of several one must be named.")
    like: str | None = Field(default=None, description="The lm-eval task whose format `data` has.")
    data: str | None = Field(default=None, description="JSONL in the schema of the hub, relative to the suite's file.")
    num_fewshot: int | None = Field(
        default=None,
        ge=0,
        description="Stands before the suite's. 0 for tasks whose definition says 0: lm-eval gives them none.",
    )
    limit: int | None = Field(default=None, ge=1, description="So many of its documents; stands before the suite's.")
    documents: list[Annotated[int, Field(ge=0)]] | None = Field(
        default=None, min_length=1, description="Exact document ids, instead of `limit`."
    )
    weight: float = Field(default=1.0, gt=0, description="The task's share in the suite's figures.")
    cluster: str | None = Field(
        default=None, description="A field of the documents, such as `passage`: those that share it are drawn together."
    )

    @model_validator(mode="after")
    def _one_way_to_choose(self) -> Task:
        if self.documents is not None and self.limit is not None:
            raise ValueError("limit and documents both choose documents; give one of them")
        if self.documents is not None and len(set(self.documents)) < len(self.documents):
            raise ValueError("a document is named twice")
        return self


class Suite(Strict):
    """What to score, and what must hold."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$", description="Letters a-z, digits, `.`, `_`, `-`.")
    description: Line = Field(description="One line for reports.")
    tasks: list[Task] = Field(min_length=1, description="In this order.")
    num_fewshot: int | None = Field(default=None, ge=0, description="Examples before each question; the task's own.")
    limit: int | None = Field(
        default=None, ge=1, description="So many documents of each task, drawn at random; all of them."
    )
    seed: int = Field(default=0, ge=0, description="Which documents a `limit` draws: another seed, other documents.")
    batch_size: int = Field(default=16, ge=1, description="Requests at once.")
    max_length: int = Field(
        default=4096,
        ge=16,
        description="Tokens of context, or the model's if it has less. Longer documents are cut on the left, longer "
        "texts are read in windows.",
    )
    chat_template: bool = Field(default=False, description="Questions are put as a chat.")
    count_no_signal: bool = Field(default=False, description="Tasks on which the model itself guesses count too.")
    backend: Literal["auto", "hf", "vllm"] = Field(
        default="auto",
        description="What computes the likelihoods: transformers (`hf`), or the vLLM that will serve. `auto`: vLLM on "
        "GPUs; on a CPU transformers, unless it would not compute what vLLM does.",
    )
    gates: list[str] = Field(
        default=[], description="`recovery`, `kl`, `flips` or `perplexity_ratio`, with `>=` or `<=`; `TASK:` before it."
    )

    @model_validator(mode="after")
    def _distinct(self) -> Suite:
        names = [task.task for task in self.tasks]
        if doubled := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"task {', '.join(doubled)} is there twice")
        return self


class ResolvedTask(ScoredTask):
    """A task of a suite with every choice made, and what decides no score of it.

    `data` is the file that its documents come from (None: the hub or its cache). The two that lm-eval knows, once it
    was asked: how many documents are `available`, and the YAML that is its `definition` (None for a group).
    `group` is that of lm-eval whose figure is the mean over all documents of its tasks (None: of no such group).
    """

    metric: str
    filter: str | None
    weight: float
    data: str | None
    cluster: str | None = None
    group: str | None = None
    available: int | None = None
    definition: dict[str, Any] | None = None

    def limited(self, limit: int | None, seed: int) -> ResolvedTask:
        """The same on a sample of `limit` documents, or on all where there are no more; named documents stay."""
        if self.documents:
            return self
        whole = limit is None or (self.available is not None and limit >= self.available)
        return self.model_copy(update={"limit": None if whole else limit, "seed": None if whole else seed})

    def scored_documents(self) -> list[int] | None:
        """The numbers of the documents to score, in their order; None for all. Known once lm-eval was asked."""
        if self.documents or self.limit is None:
            return self.documents
        if self.available is None or self.seed is None:
            raise ValueError(f"{self.task}: a sample needs a seed, and the number of documents to draw from")
        return sampling.sample(self.task, self.seed, self.available, self.limit)


def load_suite(name: str) -> tuple[Suite, Path]:
    """Reads and validates a suite: a path or a shipped name. Raises InputError with every problem in the file."""
    path = shipped.find("suites", name)
    document = load_yaml(path, atomic.read_input(path), HINT)
    return validate(document, Suite, HINT), path


def resolve_tasks(
    suite: Suite, suite_file: Path, data_folder: Path | None, limit: int | None = None
) -> list[ResolvedTask]:
    """The suite's tasks, each with every choice made.

    `data_folder` holds <task>.jsonl files in the hub's schema; `limit` stands before the suite's and the tasks' own.
    Raises InputError for a data file that is missing, with the line of a document that is none.
    """
    if data_folder and not data_folder.is_dir():
        raise InputError(
            f"{data_folder} is not a folder", hint="--data and QUANTPRESS_DATA name a folder of JSONL files"
        )
    resolved = []
    for task in suite.tasks:
        path = _data_file(task, suite_file, data_folder)
        resolved.append(
            ResolvedTask(
                task=task.task,
                like=task.like or task.task,
                metric=task.metric,
                filter=task.filter,
                num_fewshot=suite.num_fewshot if task.num_fewshot is None else task.num_fewshot,
                documents=sorted(task.documents) if task.documents else None,
                weight=task.weight,
                cluster=task.cluster,
                data=str(path.resolve()) if path else None,
                sha256=digests.sha256_file(path) if path else None,
            ).limited(limit or task.limit or suite.limit, suite.seed)
        )
    return resolved


def _data_file(task: Task, suite_file: Path, data_folder: Path | None) -> Path | None:
    if task.data:
        path = suite_file.parent / task.data
        if not path.is_file():
            raise InputError(f"task {task.task}: {path}: no such file", hint=HINT)
    elif data_folder:
        path = data_folder / f"{task.task}.jsonl"
        if not path.is_file():
            raise InputError(
                f"{data_folder} holds no {task.task}.jsonl", hint="add it, or unset QUANTPRESS_DATA to use the hub"
            )
    else:
        return None
    if sum(1 for _ in documents_of(path)) == 0:
        raise InputError(f"{path} holds no document", hint=_DOCUMENTS)
    return path


def documents_of(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Documents of one's own with the numbers of their lines. Raises InputError with file and line."""
    for number, document in lines.json_lines(path, _DOCUMENTS):
        if not isinstance(document, dict) or not document:
            what = "an empty object" if document == {} else f"{type(document).__name__}, not an object"
            raise InputError(f"{path}:{number}: is {what}", hint=_DOCUMENTS)
        yield number, document
