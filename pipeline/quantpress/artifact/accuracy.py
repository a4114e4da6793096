"""accuracy.json: how a checkpoint answers beside the model that it was made from, on the same documents."""

from __future__ import annotations

from typing import Any, ClassVar, Final, Literal

from pydantic import ConfigDict, Field

from quantpress.artifact.results import StageResult
from quantpress.artifact.served import Served
from quantpress.runtime.environment import Machine
from quantpress.runtime.records import Record, Stored
from quantpress.statistics.conventions import CONFIDENCE, Interval

# Of the statistics: how intervals, tests and the choice of tasks are made. 1 were percentile bootstraps, McNemar's test
# over all documents alike, and tasks chosen by the scores that recovery divides by; 2 took for a guess the first of
# choices that every document has for itself, and each small part's most frequent answer. See
# docs/explanation/statistics.md.
RULES: Final = 3
# How a gate is decided that transformers passed, while the engine does not compute what transformers does.
TRANSFORMERS_ONLY: Final = "transformers only"
# The model scored once more: in other batches, and by the other backend.
AGAIN: Final = "again"
OTHER_BACKEND: Final = "other backend"
Decision = Literal["pass", "fail", "inconclusive", "transformers only"]


class Figures(Record):
    """How far a checkpoint is from its model over some documents, each figure with its interval.

    `difference` and `recovery`: of the mean metric, candidate minus and over baseline. `above_chance`: recovery of what
    the baseline has beyond a guess. `flips`: the share of documents with another answer. `kl`: the mean divergence of
    the distributions over the choices, in nats, `kl_median` its median, `kl_held_by_few` the share of it that 5% of the
    documents hold. `perplexity_ratio`: candidate over baseline. A figure is None where it does not apply, an interval
    also where too few documents have it.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    difference: float | None = None
    difference_interval: Interval | None = None
    recovery: float | None = None
    recovery_interval: Interval | None = None
    above_chance: float | None = None
    above_chance_interval: Interval | None = None
    flips: float | None = None
    flips_interval: Interval | None = None
    kl: float | None = None
    kl_interval: Interval | None = None
    perplexity_ratio: float | None = None
    perplexity_ratio_interval: Interval | None = None
    kl_median: float | None = None
    kl_held_by_few: float | None = None

    def value(self, name: str) -> float | None:
        """The figure of this name. Raises AttributeError for a name that is none."""
        value: float | None = getattr(self, name)
        return value

    def interval(self, name: str) -> Interval | None:
        """The interval of the figure of this name. Raises AttributeError for a name that is none."""
        interval: Interval | None = getattr(self, f"{name}_interval")
        return interval


class TaskRow(Figures):
    """One task. `baseline` and `candidate` are the mean metric (0 to 1), or the perplexity.

    `filter` is the one of lm-eval's that the answers went through (None: no filter). lm-eval's own values of the metric
    are `out_of` 1 or 100.

    Of the documents that only one of both has right, the candidate has `lost` or `gained` them; `p_value` is McNemar's
    of the two, `significant` at 5%. `guessing` is the accuracy of a guess. There is `no_signal` where the baseline is
    not better than that; `counting` is the share of the documents that count, each quarter of them if there is a signal
    in the other three. None where the metric is a perplexity, or a fraction of a document. `smallest_loss` is the
    smallest one of the metric that so many documents would show in 80% of the repetitions.
    """

    metric: str
    filter: str | None = None
    out_of: int = 1
    documents: int
    weight: float | None = None  # of results of earlier versions
    baseline: float
    candidate: float
    lost: int | None = None
    gained: int | None = None
    p_value: float | None = None
    significant: bool | None = None
    guessing: float | None = None
    no_signal: bool = False
    counting: float | None = None
    smallest_loss: float | None = None


class Overall(Figures):
    """Over the tasks that count, by their weights, and so is `p_value` (that of signs flipped at random) and the
    `smallest_loss` that would be shown; `lost` and `gained` count documents."""

    lost: int | None = None
    gained: int | None = None
    p_value: float | None = None
    smallest_loss: float | None = None


class Mean(Record):
    """The weighted mean metric of both models over the `tasks` (a number) that count and are no perplexities."""

    tasks: int
    baseline: float
    candidate: float


class Gate(Record):
    """A gate as it was written, the figure that it asks for with its interval at `confidence`, and the decision.

    `reason` says why it cannot be decided whatever the figure is. `look` counts how often it was decided on more and
    more documents. `p_value`, where it is kept: one-sided, that the figure is not on the right side of the limit, by
    this look alone.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    gate: str
    figure: float | None = None
    interval: Interval | None = None
    decision: Decision
    reason: str | None = None
    confidence: float | None = None
    documents: int | None = None
    look: int | None = None
    p_value: float | None = None


class Difference(Record):
    """What, besides the model, was not the same on both sides of a task, in words; where the samples show it, in so
    many `documents`."""

    task: str
    what: str
    baseline: str
    candidate: str
    documents: int | None = None


class TaskLeftOut(Record):
    """A task that is not compared, and why."""

    task: str
    reason: str


class Comparison(Record):
    """Two models' answers to the same documents, by task and over the tasks that count.

    `overall` is None where no task counts, which one without a signal does not unless `counts_no_signal`. No gate
    passes on tasks that have `differences`, nor over all tasks where some are `left_out`. `notes` say what was taken
    where there was a choice, and what is not known. `rules` is the number of the statistics that made the figures.
    """

    tasks: dict[str, TaskRow]
    mean: Mean
    overall: Overall | None
    confidence: float = CONFIDENCE
    counts_no_signal: bool = False
    rules: int = 1  # where results of earlier versions have none
    gates: list[Gate] = Field(default_factory=list)
    differences: list[Difference] = Field(default_factory=list)
    left_out: list[TaskLeftOut] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)

    @property
    def documents(self) -> int:
        """Of all tasks."""
        return sum(row.documents for row in self.tasks.values())


class ScoredTask(Record):
    """What of a task decides its scores. `sha256` is that of its file of documents, if they came from one.

    A `limit` takes a random sample, which `seed` decides; without a seed, as in results of earlier versions, it took
    the first documents, which are no sample where a file has an order.
    """

    task: str
    like: str
    num_fewshot: int | None = None
    limit: int | None = None
    seed: int | None = None
    documents: list[int] | None = None
    sha256: str | None = None
    metric: str | None = None  # in results of earlier versions

    @property
    def chosen(self) -> str | None:
        """How its documents were chosen, in words; None where all of them were scored."""
        if self.documents:
            return "documents that the suite names"
        if self.limit is None:
            return None
        return "the first documents, no sample" if self.seed is None else f"a random sample, seed {self.seed}"


class Settings(Record):
    """Everything but the model that decides a score. `compute_dtype` is None where vLLM scored, `engine` what was set
    of a vLLM that scored, where that may change a score."""

    suite: str
    tasks: list[ScoredTask]
    batch_size: int
    max_length: int | None = None
    chat_template: bool | None = None
    stage: int
    backend: str
    compute_dtype: str | None = None
    device: str
    versions: dict[str, str]
    engine: dict[str, Any] | None = None
    # In results of earlier versions; today every task has its own.
    num_fewshot: int | None = None
    limit: int | None = None

    def decisive(self) -> dict[str, Any]:
        """For keys: what was set, without the fields that only earlier versions had, which would give other keys."""
        return self.model_dump(mode="json", exclude_unset=True)


class Run(Stored):
    """The scores of one model, as score.json in `folder` keeps them. `scores` and `task_versions` are lm-eval's own.

    `answered_before`: requests that an earlier, killed run had answered. `server` is the command of the vLLM that
    scored, `command` the one of lm-eval that gives the same numbers.
    """

    SCHEMA_VERSION = 4

    schema_version: int = SCHEMA_VERSION  # accuracy.json repeats the whole of score.json
    key: str | None = None
    folder: str
    scores: dict[str, Any] = Field(default_factory=dict)
    documents: dict[str, int] = Field(default_factory=dict)
    task_versions: dict[str, Any] = Field(default_factory=dict)
    answered_before: int | None = None
    note: str | None = None
    seconds: float | None = None
    server: str | None = None
    command: str | None = None


class Accuracy(Comparison, StageResult):
    """The checkpoint beside the model. `key` names everything that the figures were made from.

    `runs` are by side: `baseline`, `candidate`, and where the model was scored once more AGAIN, in other batches, and
    OTHER_BACKEND, by vLLM instead of transformers or the other way round. By the first it differs from itself as
    `noise_floor` says, by the second as `backend_floor`. `served`: what a bench found of the engine.
    """

    STAGE: ClassVar[str] = "accuracy"

    key: str
    model_digest: str
    suite: str
    settings: Settings
    noise_floor: Overall | None = None
    backend_floor: Overall | None = None
    runs: dict[str, Run]
    machine: Machine
    served: Served | None = None

    @property
    def name(self) -> str:
        return self.suite
