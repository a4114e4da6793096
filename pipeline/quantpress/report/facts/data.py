"""The report as data: what report.json holds, and what the views are made of.

The fields are the keys of report.json in their order. What was not measured, or not told, is None; the views name it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from quantpress.artifact.accuracy import Difference, TaskLeftOut
from quantpress.artifact.manifest import Adopted
from quantpress.artifact.online import name_of
from quantpress.artifact.recertification import GateAgain, SpeedPair
from quantpress.artifact.served import Served
from quantpress.artifact.throughput import ALTERNATING, APART, ATTACHED, TOGETHER, Capacity, KernelUse
from quantpress.runtime.environment import Machine
from quantpress.runtime.identity import Identity
from quantpress.runtime.records import Record, Stored
from quantpress.statistics.conventions import Interval
from quantpress.statistics.ratios import Estimate, verdict

GoalName = Literal["latency", "throughput", "memory"]


class Figure(Record):
    """A figure and its 95% interval."""

    value: float | None
    interval: Interval | None

    @property
    def with_edges(self) -> tuple[float, float, float] | None:
        """The value and the ends of its error bar, which has no length where there is no interval."""
        return None if self.value is None else (self.value, *(self.interval or (self.value, self.value)))


class Ratio(Figure):
    """How many times better the checkpoint is than the model, over so many pairs of rounds, from so many starts of both
    servers (quantpress.statistics.ratios has the rules). `error` is the standard error of its logarithm, of so many
    `degrees` of freedom. In reports of version 2 there are neither, and the intervals of latencies are ranges.
    """

    value: float
    interval: Interval | None
    pairs: int
    starts: int = 1
    error: float | None = None
    degrees: float | None = None
    verdict: str | None = None

    @classmethod
    def of(cls, found: Estimate, distrusted: Sequence[str] = ()) -> Self:
        """The ratio and its verdict, which is no better than the reasons not to trust the measurement allow."""
        return cls(
            value=found.value,
            interval=found.interval,
            pairs=found.pairs,
            starts=found.starts,
            error=found.error,
            degrees=found.degrees,
            verdict=verdict(found, distrusted),
        )

    @property
    def estimate(self) -> Estimate:
        return Estimate(self.value, self.pairs, self.starts, self.error, self.degrees)


class NoRatio(Figure):
    """What stands in a ratio's place where the model was not measured beside the checkpoint."""

    value: None
    interval: None
    pairs: Literal[0]


class Spread(Record):
    """The median over rounds, with the least and the greatest."""

    value: float | None
    range: Interval | None


class Paired(Record):
    """How far a checkpoint is from the model on the same documents."""

    recovery: Figure
    flips: Figure
    kl: Figure
    perplexity_ratio: Figure
    above_chance: Figure = Figure(value=None, interval=None)


class Task(Record):
    """One task of a suite. It holds the figures of Paired at its end, where report.json has them."""

    task: str
    metric: str | None
    filter: str | None = None
    out_of: int = 1
    documents: int | None
    baseline: float | None
    candidate: float | None
    p_value: float | None
    significant: bool | None
    lost: int | None
    gained: int | None
    guessing: float | None
    weight: float | None
    no_signal: bool
    difference: Figure
    recovery: Figure
    flips: Figure
    kl: Figure
    perplexity_ratio: Figure
    above_chance: Figure = Figure(value=None, interval=None)
    counting: float | None = None
    smallest_loss: float | None = None


class Mean(Record):
    """Accuracy over the tasks that count."""

    tasks: int | None
    baseline: float | None
    candidate: float | None


class Together(Record):
    """The difference over the tasks that count, the test for it by their weights, and the smallest loss that would be
    shown."""

    difference: Figure
    p_value: float | None
    smallest_loss: float | None = None


class Gate(Record):
    """How a gate was decided, on the figure's interval at this confidence. `p_value` is that of a pass."""

    gate: str
    value: float | None
    interval: Interval | None
    confidence: float | None
    documents: int | None
    decision: str
    reason: str | None = None
    p_value: float | None = None


class Score(Record):
    """What evaluate (or compare, which names no suite) found on one suite. `commands` are by side; `differences`,
    `left_out`, `notes` and `rules` are those of the comparison. `limit` takes the same documents; `engine` has the
    arguments of a vLLM that scored, where they may change a score."""

    suite: str | None
    backend: str | None
    device: str | None
    limit: int | float | None
    versions: dict[str, str]
    machine: Machine | None
    documents: int
    tasks: list[Task]
    counts_no_signal: bool
    mean: Mean
    overall: Paired
    together: Together
    noise_floor: Paired | None
    gates: list[Gate]
    commands: dict[str, str | None]
    backend_floor: Paired | None = None
    differences: list[Difference] = Field(default_factory=list)
    left_out: list[TaskLeftOut] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)
    rules: int = 1
    engine: dict[str, Any] = Field(default_factory=dict)


def load_in_words(concurrency: int | None, request_rate: float | None) -> str:
    """How strong a load was: so many requests at once, or so many that arrive in a second."""
    return f"{request_rate or 0.0:g} requests/s" if concurrency is None else f"{concurrency} at once"


class Point(Record):
    """One strength of load: so many requests at once, or so many that arrive in a second.

    Both sides' figures and the ratios are by metric; `compared` names the ratio that the verdict is on.
    """

    concurrency: int | None
    request_rate: float | None
    failed_requests: int
    untrustworthy: list[str]
    verdict: str | None
    baseline: dict[str, Spread] | None
    candidate: dict[str, Spread] | None
    ratios: dict[str, Ratio | NoRatio]
    compared: str

    @property
    def load(self) -> str:
        """How strong it was, in words."""
        return load_in_words(self.concurrency, self.request_rate)

    def ratio(self, metric: str) -> Ratio | None:
        """How many times better the checkpoint is, if that was measured."""
        ratio = self.ratios[metric]
        return ratio if isinstance(ratio, Ratio) else None


class Answer(Record):
    """A question with both sides' answers."""

    question: str
    baseline: str | None
    candidate: str | None


class Server(Record):
    """What a server said of itself while it started."""

    startup_s: float | None
    load_s: float | None
    kv_cache_tokens: int | None
    kv_cache_gib: float | None
    weights_gib: float | None


class Servers(Record):
    baseline: Server
    candidate: Server


class LoadCommand(Record):
    side: str
    load: str
    command: str


class SpeedCommands(Record):
    """What repeats a measurement by hand: the server of each side, and each load."""

    servers: dict[str, str | None]
    load: list[LoadCommand]


# How the servers of a measurement shared the machine, in words.
PAIRINGS = {
    APART: "side by side on different GPUs, each with all of the memory",
    TOGETHER: "side by side on one device",
    ALTERNATING: "one at a time, each with all of the memory",
    ATTACHED: "on servers that ran already",
}


# Of a workload: what it is called, which levels are measured, how often, and what is counted of them.
_LEVELS = {
    *("name", "description", "concurrency", "request_rate", "request_rates", "until_saturated"),
    *("requests", "requests_per_stream", "rounds", "starts", "goodput"),
}


class Speed(Record):
    """What bench found under one workload. `foreign` names the servers that someone else runs, `pairing` how they share
    the machine; `capacity` is by side, of servers that had all of the memory."""

    workload: dict[str, Any]
    weights: str
    machine: Machine
    foreign: list[str]
    vllm: str | None
    untrustworthy: list[str]
    notes: list[str]
    points: list[Point]
    answers: list[Answer]
    served: Served | None
    servers: Servers
    commands: SpeedCommands
    kernels: list[KernelUse] = Field(default_factory=list)
    pairing: str = TOGETHER
    capacity: dict[str, Capacity] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _before_there_were_pairings(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("foreign") and "pairing" not in data:
            return {**data, "pairing": ATTACHED}
        return data

    @property
    def paired(self) -> str:
        """How the servers shared the machine, in words."""
        return PAIRINGS.get(self.pairing, self.pairing)

    @property
    def workload_name(self) -> str:
        return str(self.workload.get("name", "unknown"))

    @property
    def conditions(self) -> dict[str, Any]:
        """What of the workload, with its engine, decides a figure at one level: two files of one name may differ."""
        return {key: value for key, value in self.workload.items() if key not in _LEVELS}

    @property
    def served_on(self) -> str:
        """The hardware, in words."""
        if self.foreign:
            return "servers that someone else runs, whose hardware and settings are not known here"
        kind = ", ".join(self.machine.gpus) or f"{self.machine.processor} CPU"
        return f"{kind}, {self.machine.cores} cores"

    @property
    def concurrencies(self) -> set[int]:
        """Those that were measured; loads by request rate have none."""
        return {point.concurrency for point in self.points if point.concurrency is not None}

    def at(self, concurrency: int) -> Point | None:
        return next((point for point in self.points if point.concurrency == concurrency), None)


class Size(Record):
    """What a checkpoint takes, and what making it took."""

    model_bytes: int
    checkpoint_bytes: int
    ratio: float | None
    bits_per_weight: float | None
    quantized_layers: int | None
    scales: str | None
    calibration_tokens: int | None
    calibrated: bool
    seconds: float | None


class Layers(Record):
    """The error that quantization adds to each decoder layer's output."""

    errors: list[float]
    tokens: int


class Rescored(Record):
    """One suite on another engine: its answers against those on record."""

    suite: str
    scored_by: str
    difference: Figure
    flips: Figure


class OtherEngine(Record):
    """What a recertification says of a checkpoint on another engine. `signed` is whether a signature lies beside it."""

    folder: str
    before: str | None
    after: str
    verdict: Literal["holds", "moved"]
    moved: list[str]
    unknown: list[str]
    answers: tuple[int, int]
    likelihoods: Figure
    accuracy: list[Rescored]
    speeds: list[SpeedPair]
    gates: list[GateAgain]
    signed: bool
    created: str


class Recipe(Record):
    """One recipe: what was made, and what each stage found. `missing` says why a stage has nothing to show.

    `accuracy` and `throughput` are of the suite and the workload that are compared. `number` is the recipe's place in
    the report, from 1. `adopted` says where a checkpoint comes from that no recipe of ours made.
    """

    number: int
    name: str
    description: str
    digest: str
    created: str
    size: Size
    accuracy: Score | None
    other_suites: list[Score]
    throughput: Speed | None
    other_workloads: list[Speed]
    layers: Layers | None
    missing: dict[str, str]
    warnings: list[str]
    resolved: str | None
    versions: dict[str, str]
    machine: Machine
    adopted: Adopted | None = None
    other_engines: list[OtherEngine] = Field(default_factory=list)

    @property
    def scores(self) -> list[Score]:
        """Every suite that was scored: the compared one first."""
        return [*([self.accuracy] if self.accuracy else []), *self.other_suites]

    @property
    def speeds(self) -> list[Speed]:
        """Everything that was measured in vLLM: under the compared workload first."""
        return [*([self.throughput] if self.throughput else []), *self.other_workloads]

    @property
    def overall(self) -> Paired | None:
        """The distance from the model over the whole suite, if it was scored."""
        return self.accuracy.overall if self.accuracy else None

    def at(self, concurrency: int) -> Point | None:
        return self.throughput.at(concurrency) if self.throughput else None

    def ratio(self, concurrency: int, metric: str) -> Ratio | None:
        """How many times better than the model it is there, if that was measured."""
        point = self.at(concurrency)
        return point.ratio(metric) if point else None


class Dummy(Record):
    """A speed measured on the model's shapes alone, without its weights and without a checkpoint."""

    name: str
    throughput: Speed


class Online(Record):
    """What costs nothing to make: the model itself, quantized by vLLM while it loads (`--quantization METHOD`)."""

    method: str
    throughput: Speed | None
    accuracy: Score | None

    @property
    def name(self) -> str:
        return name_of(self.method)


class Unfinished(Record):
    recipe: str
    log: str


class LeftOut(Record):
    recipe: str
    reason: str


class Load(Record):
    """Under what recipes are compared: the least concurrency shows latency, the greatest throughput. `conditions` are
    those of Speed."""

    workload: str
    conditions: dict[str, Any] = Field(default_factory=dict)
    machine: str
    pairing: str = TOGETHER
    recipes: list[str]
    least: int
    most: int


class Cell(Record):
    """One recipe's figure beside the model's: of speed with their ratio, of size in bytes."""

    recipe: str
    baseline: int | float | None
    candidate: int | float | None
    ratio: Ratio | None


class Goal(Record):
    """Who wins for a goal, or why nobody does; `figures` are the winner's, or those of the recipe that came nearest."""

    goal: GoalName
    metric: str
    state: Literal["shown", "not shown", "not measured", "no candidate"]
    reason: str
    winner: str | None = None
    tied: list[str] = Field(default_factory=list)
    concurrency: int | None = None
    figures: Cell | None = None


class Decision(Record):
    """The first screen of the report; `headline`, the goals' `reason` and `caveats` are sentences.

    `gate_states` is by recipe; `gated` is whether any recipe has a gate; `front` names the recipes on the Pareto front.
    """

    gate_states: dict[str, str]
    gated: bool
    load: Load | None
    goals: list[Goal]
    headline: str
    front: list[str]
    caveats: list[str]


# What a figure that may have moved is, and so how a view writes it; `times` is a ratio of speeds.
Kind = Literal["bytes", "recovery", "flips", "kl", "perplexity_ratio", "times", "text"]


class Change(Record):
    """One figure of one recipe in both reports, and whether it moved."""

    recipe: str
    kind: Kind
    figure: str
    old: Ratio | Figure | int | str
    new: Ratio | Figure | int | str
    verdict: str


class Headlines(Record):
    old: str
    new: str


class Moved(Record):
    """What moved since an older report, beyond noise."""

    against: str
    rule: str
    other_model: bool
    added: list[str]
    removed: list[str]
    headline: Headlines
    rows: list[Change]


def _without_moved(data: dict[str, Any]) -> dict[str, Any]:
    """Version 1 kept what moved as text, and nobody compares with that."""
    return data | {"moved": None}


class Report(Stored):
    """Everything known of the artifacts of one model, and what follows from it."""

    SCHEMA_VERSION = 3
    OLDER: ClassVar[dict[int, Callable[[dict[str, Any]], dict[str, Any]]]] = {1: _without_moved, 2: dict}

    quantpress: str
    model: Identity
    recipes: list[Recipe]
    dummy: list[Dummy]
    unfinished: list[Unfinished]
    left_out: list[LeftOut]
    moved: Moved | None
    decision: Decision
    online: list[Online] = Field(default_factory=list)
