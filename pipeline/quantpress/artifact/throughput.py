"""throughput.json: what a bench measured of one checkpoint and of the model beside it, under one workload."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from pydantic import ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from quantpress.artifact.results import StageResult
from quantpress.artifact.served import Served
from quantpress.runtime.environment import Machine
from quantpress.runtime.records import Record

# What is called speed, by the kind of load: at a concurrency, and where requests arrive at a rate.
SERVER, REQUEST = "output tokens/s", "output tokens/s of a request"

# The two servers of a bench, by role.
CANDIDATE, BASELINE = "candidate", "baseline"

# How they share the machine: on different GPUs at the same time, on one device at the same time with half of its memory
# each, one after the other with all of the memory, or as servers of someone else do.
APART, TOGETHER, ALTERNATING, ATTACHED = "apart", "together", "alternating", "attached"
WITH_ALL_OF_THE_MEMORY = (APART, ALTERNATING)

# In an artifact's folder: the finished starts of a bench that was stopped.
UNFINISHED = "throughput-unfinished.json"

# What `vllm bench serve` measured, by vLLM's own names. Whole numbers stay whole, as vLLM writes them.
Figures = dict[str, int | float]


class _AsGiven(Record):
    """Settings as a file had them: the fields that readers of a result need, and whatever else was there."""

    model_config = ConfigDict(extra="allow", frozen=True)

    @model_serializer(mode="wrap")
    def _without_defaults(self, whole: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Not even as nulls: the report compares a workload with the one that an older report.json holds.
        return {name: value for name, value in whole(self).items() if name in self.model_fields_set}


class EngineSettings(_AsGiven):
    """vLLM's engine settings that a workload names; quantpress_serve.workload.engine.Engine has all of them."""

    max_model_len: int | None = None
    gpu_memory_utilization: float | None = None


class WorkloadRecord(_AsGiven):
    """The workload of a measurement; quantpress_serve.workload.workload.Workload has all that it can say."""

    name: str
    prefix_caching: bool = False
    engine: EngineSettings = EngineSettings()


class Executable(Record):
    """The vLLM that served."""

    executable: str
    version: str


class Inputs(Record):
    """Everything that a measurement depends on and that can be named: if it changes, `bench` measures again.

    `servers` holds the URLs of servers that someone else runs, `baseline_vllm` is the vLLM of the baseline where that
    is another one, `pairing` is that of Throughput. A field is None where an older version did not name it.
    """

    checkpoint: str | None = None
    model: str | None = None
    weights: str | None = None
    workload: WorkloadRecord | None = None
    vllm: Executable | None = None
    servers: dict[str, str | None] | None = None
    baseline_vllm: Executable | None = None
    environment: dict[str, str] | None = None
    machine: Machine | None = None
    pairing: str | None = None


class ServerFacts(Record):
    """How a server was started, and what it told of itself; None where it told nothing.

    `command` is a line for people; programs read `argv` and `env`, which are None for a server that someone else runs
    and in files of older versions. `startup_s` is None for a server that someone else runs. `weights_gib_from` is
    "files" where the size of the weights is that of their files, because vLLM did not tell. `kernels` are the names of
    those that vLLM's log says it chose, by what it says they are for (a class of its own, "attention").
    """

    command: str
    startup_s: float | None = None
    kv_cache_tokens: int | None = None
    prefix_caching: bool | None = None
    version: str | None = None
    weights_gib: float | None = None
    load_s: float | None = None
    kv_cache_gib: float | None = None
    engine_init_s: float | None = None
    weights_gib_from: str | None = None
    argv: list[str] | None = None
    env: dict[str, str] | None = None
    kernels: dict[str, list[str]] | None = None


class KernelUse(Record):
    """The kernels of one kind of layer, by vLLM's names: `planned` are those of which any is as planned (none where
    vLLM does not say which it takes), `served` those that it said, None where it said nothing. `others` are those of
    the latter that were not planned."""

    kind: str
    planned: list[str]
    served: list[str] | None = None
    others: list[str] = Field(default_factory=list)

    @property
    def sentence(self) -> str:
        """What was planned and what became of it."""
        by = f"served by {', '.join(self.others or self.served)}" if self.served else "vLLM did not say which serves"
        return f"{self.kind}: planned {' or '.join(self.planned) or 'whichever vLLM has'}, {by}"


class Said(Record):
    """One question and a server's answer."""

    question: str
    answer: str


class Answer(Said):
    """An answer that was looked at. `problem` says what is wrong with it, None if nothing is. `mean_logprob` is the
    natural logarithm, per token."""

    tokens: int
    mean_logprob: float | None
    problem: str | None


class Picture(Record):
    """What each side answered to a question with an image; `reason` says why one was not asked."""

    answers: dict[str, Answer]
    reason: str | None


class Disturbance(Record):
    """What else the machine did during a measurement: shares of its time (None where it was not looked at), and the
    number of processes of others on the GPUs. serve/quantpress_serve/bench/interference.py has the bounds."""

    other_work: float | None = None
    stolen: float | None = None
    throttled: float | None = None
    gpu_slowed: float | None = None
    other_gpu_processes: int = 0


class Cell(Record):
    """One measurement: one side, under one level of load, in one round, after so many times that both servers were
    started anew (`start`). `untrustworthy` gives reasons, if any; `errors` how many requests failed of what."""

    role: str
    concurrency: int | None = None
    request_rate: float | None = None
    round: int = 0
    start: int = 0
    seed: int | None = None
    figures: Figures
    machine: Disturbance | None = None
    errors: dict[str, int] = Field(default_factory=dict)
    untrustworthy: list[str] = Field(default_factory=list)
    command: str | None = None

    @property
    def load(self) -> tuple[int | None, float | None]:
        """The level of load: the requests at once, or the requests a second."""
        return self.concurrency, self.request_rate


def in_brackets(errors: dict[str, int]) -> str:
    """What requests failed of, behind their number; empty where nothing is known."""
    return f" ({'; '.join(errors)})" if errors else ""


class Summary(Record):
    """One level of load: the medians of both sides over the rounds, and the ratio of their speeds pair by pair.

    `speed` is what the ratios compare (SERVER or REQUEST), `spread` each side's (greatest - least) / median of it.
    `ratios`, `starts` of the servers from which they come, `speedup`, `interval` and `verdict` are None where one side
    alone was measured.
    """

    concurrency: int | None = None
    request_rate: float | None = None
    failed_requests: int = 0
    speed: str | None = None
    spread: dict[str, float | None] = Field(default_factory=dict)
    untrustworthy: list[str] = Field(default_factory=list)
    candidate: Figures | None = None
    baseline: Figures | None = None
    ratios: list[float] | None = None
    starts: int | None = None
    speedup: float | None = None
    interval: tuple[float, float] | None = None
    verdict: str | None = None

    @property
    def load(self) -> tuple[int | None, float | None]:
        """The level of load: the requests at once, or the requests a second."""
        return self.concurrency, self.request_rate

    def side(self, role: str) -> Figures | None:
        """The figures of the candidate or of the baseline."""
        return self.candidate if role == CANDIDATE else self.baseline


class Saturated(Record):
    """The concurrency at which a further step `gained` too little, and the levels that were therefore left out."""

    concurrency: int
    gained: float
    left_out: list[int | None]


class Capacity(Record):
    """What one server with all of the memory has room for: tokens in its KV cache (None where it did not tell), and the
    least concurrency to which it gained next to nothing from the one before (None where it still gained)."""

    kv_cache_tokens: int | None
    saturates_at: int | None


class Throughput(StageResult):
    """The result of `bench`. Fields with a default are those that files of older versions lack.

    `baseline_vllm` is the vLLM that served the baseline, where two engines were compared on one checkpoint.
    `pairing` is how the servers shared the machine (APART, TOGETHER, ALTERNATING, ATTACHED), `pairing_reason` why;
    `capacity` is by role, of servers that had all of the memory. `ended` says why a bench is incomplete, `sittings` how
    often it was begun and gone on with. `answers` holds each side's first answer, `chat` all of them; `picture` is None
    for a model that takes no images. `summary` is by the rules of the version that wrote it; who decides by it sums up
    `cells` anew (quantpress.artifact.speed). `kernels` are None where nobody knows what was planned: servers of someone
    else, a machine that the table of kernels does not know.
    """

    STAGE: ClassVar[str] = "throughput"
    SCHEMA_VERSION = 5
    # Version 4 did not say which start of the servers a cell came from: it was one start.
    OLDER: ClassVar[dict[int, Callable[[dict[str, Any]], dict[str, Any]]]] = {4: dict}

    weights: str = "real"
    weight_bits: list[int] = Field(default_factory=list)
    complete: bool = True
    ended: str | None = None
    inputs: Inputs
    workload: WorkloadRecord
    vllm: Executable
    baseline_vllm: Executable | None = None
    environment: dict[str, str]
    servers: dict[str, ServerFacts]
    answers: dict[str, Said]
    chat: dict[str, list[Answer]] | None = None
    picture: Picture | None = None
    seed_base: int | None = None
    cells: list[Cell]
    saturated: Saturated | None = None
    summary: list[Summary]
    machine: Machine
    served: Served | None = None
    kernels: list[KernelUse] | None = None
    pairing: str | None = None
    pairing_reason: str | None = None
    capacity: dict[str, Capacity] = Field(default_factory=dict)
    sittings: int = 1

    @property
    def paired(self) -> str:
        """The pairing; older versions served ours together and named none."""
        foreign = any(server.startup_s is None for server in self.servers.values())
        return self.pairing or (ATTACHED if foreign else TOGETHER)

    def engine(self, role: str) -> Executable:
        """The vLLM that served this side: the URL of one that someone else runs, with the version that it tells."""
        url = (self.inputs.servers or {}).get(role)
        if url:
            return Executable(executable=url, version=self.servers[role].version or "unknown")
        return (self.baseline_vllm if role == BASELINE else None) or self.vllm

    @property
    def other_kernels(self) -> list[str]:
        """The kinds of layers that other kernels than planned serve, in sentences."""
        return [use.sentence for use in self.kernels or [] if use.others]

    @property
    def name(self) -> str:
        return self.workload.name

    @property
    def is_complete(self) -> bool:
        return self.complete
