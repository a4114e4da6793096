"""A workload: what load to put on a server, and with which engine settings, as data."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from quantpress.artifact.throughput import WorkloadRecord
from quantpress.errors import InputError
from quantpress.language import shipped
from quantpress.language.document import Document, load_yaml
from quantpress.language.validation import Line, Strict, validate
from quantpress.runtime import atomic, digests
from quantpress.statistics import ratios
from quantpress_serve.workload import engines, prompts
from quantpress_serve.workload.engine import Engine as Engine
from quantpress_serve.workload.engine import require_names
from quantpress_serve.workload.trust import require_trusted

HINT = "correct the workload; serve/workloads/chat.yaml is one that works"
SPECIAL_TOKENS = 64  # room that the context keeps for them
# vLLM's own filter for ShareGPT's conversations (vllm/benchmarks/datasets, is_valid_sequence): a prompt of 4 tokens at
# least and 1024 at most, 2048 with its answer.
_SHAREGPT_ANSWER = 2048 - 4


class Range(Strict):
    """Lengths drawn evenly: from `min` to `max`, or within `range_ratio` of `mean` as `vllm bench serve` has it."""

    min: int | None = Field(default=None, ge=1, description="Goes with `max`.")
    max: int | None = Field(default=None, ge=1, description="Goes with `min`; both are drawn too.")
    mean: int | None = Field(default=None, ge=1, description="Goes with `range_ratio`.")
    range_ratio: float | None = Field(
        default=None, ge=0, lt=1, description="0.5: from half the mean to one and a half."
    )

    @model_validator(mode="after")
    def _one_form(self) -> Range:
        given = {name for name in Range.model_fields if getattr(self, name) is not None}
        if given not in ({"min", "max"}, {"mean", "range_ratio"}):
            raise ValueError("give min and max, or mean and range_ratio")
        if self.min and self.max and (self.min > self.max or (self.min + self.max) % 2):
            raise ValueError(
                f"min {self.min} and max {self.max}: min comes first, and their mean must be a whole number, around "
                "which vLLM draws evenly"
            )
        return self

    @property
    def middle(self) -> int:
        return self.mean or ((self.min or 0) + (self.max or 0)) // 2

    @property
    def ratio(self) -> float:
        """vLLM's --random-range-ratio: from floor(mean * (1 - ratio)) to ceil(mean * (1 + ratio))."""
        if self.range_ratio is not None:
            return self.range_ratio
        exact = ((self.max or 0) - self.middle) / self.middle
        rounded = math.floor(self.middle * (1 - exact)), math.ceil(self.middle * (1 + exact))
        return exact if rounded == (self.min, self.max) else exact - 1e-9  # floats round outwards now and then

    @property
    def shortest(self) -> int:
        return self.min or math.floor(self.middle * (1 - self.ratio))

    @property
    def longest(self) -> int:
        return self.max or math.ceil(self.middle * (1 + self.ratio))


Length = Annotated[int, Field(ge=1)] | Range


class Prompts(Strict):
    """Prompts from a file: ShareGPT-style JSON, or JSONL with `prompt` (and `output_tokens`) in each line."""

    format: Literal["sharegpt", "jsonl"] = Field(
        description="`jsonl`: `prompt` (and `output_tokens`) in each line. Of `sharegpt`, vLLM passes over prompts of "
        "more than 1024 tokens, and of more than 2048 with their answers."
    )
    path: str = Field(min_length=1, description="Relative to the workload's file.")


class Goals(Strict):
    """Latency goals in milliseconds. A request that meets all of them counts towards the goodput."""

    ttft: float | None = Field(default=None, gt=0, description="Time to the first token.")
    tpot: float | None = Field(default=None, gt=0, description="Time of each token after it, the mean of the request.")
    e2el: float | None = Field(default=None, gt=0, description="Time to the last token.")


@dataclass(frozen=True)
class Level:
    """One strength of the load: so many requests at once, or so many a second."""

    concurrency: int | None = None
    request_rate: float | None = None

    @property
    def label(self) -> str:
        return f"{self.request_rate:g} requests/s" if self.concurrency is None else f"concurrency {self.concurrency}"


class Workload(Strict):
    """Random prompts and answers of given lengths, or prompts from a file, at several strengths of the load."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$", description="Letters a-z, digits, `.`, `_`, `-`.")
    description: Line = Field(description="One line for reports.")
    input_len: Length | None = Field(default=None, description="Tokens of each random prompt.")
    output_len: Length | None = Field(default=None, description="Tokens of each answer, exactly.")
    prompts: Prompts | None = Field(
        default=None, description="Prompts from a file, instead of `input_len`; needs `engine.max_model_len`."
    )
    concurrency: list[Annotated[int, Field(ge=1)]] = Field(
        default=[], max_length=100, description="Never more than C requests at once; a cell for each C."
    )
    request_rates: list[Annotated[float, Field(gt=0, le=100_000)]] = Field(
        default=[],
        max_length=100,
        description="Requests a second that arrive at random (Poisson), instead of `concurrency`.",
    )
    requests_per_stream: int | None = Field(
        default=None, ge=1, description="At concurrency C, C times as many are sent."
    )
    requests: int | None = Field(
        default=None, ge=1, description="Requests of a cell, instead of `requests_per_stream`."
    )
    rounds: int = Field(
        default=4,
        ge=1,
        le=100,
        description="Pairs of candidate and baseline: an even number, because the side that goes first alternates; "
        "1 and 2 give no verdict.",
    )
    starts: int | None = Field(
        default=None,
        ge=1,
        description="How often both servers are started; the rounds are shared out among the starts. Default: anew for "
        "every round (from four rounds on). 1: by how much starts differ is assumed then, and not measured.",
    )
    until_saturated: bool = Field(
        default=False, description="The concurrency rises no further once neither side gains 5% from it."
    )
    goodput: Goals | None = Field(default=None, description="Count the requests a second that met these goals.")
    prefix_caching: bool = Field(default=False, description="vLLM's prefix cache; the report says so if it is on.")
    engine: Engine = Field(
        default=Engine(), description="vLLM's engine arguments, for both sides; `--engine` goes over them."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Workload:
        rules = {
            "input_len is missing (or prompts: a file of them)": not (self.input_len or self.prompts),
            "input_len does not go with prompts, which have lengths of their own": self.input_len and self.prompts,
            "output_len is missing": not (self.output_len or self.prompts),
            "output_len of prompts from a file is one number, or left to the file": (
                self.prompts and isinstance(self.output_len, Range)
            ),
            f"output_len {self.output_len} with ShareGPT prompts: at most {_SHAREGPT_ANSWER}, since vLLM passes over "
            "conversations of more than 2048 tokens; prompts as jsonl have no such limit": (
                self.prompts and self.prompts.format == "sharegpt" and longest(self.output_len) > _SHAREGPT_ANSWER
            ),
            "prompts need engine.max_model_len: tokens of the longest prompt and its answer": (
                self.prompts and not self.engine.max_model_len
            ),
            "give either concurrency or request_rates": bool(self.concurrency) == bool(self.request_rates),
            "give either requests_per_stream or requests": bool(self.requests_per_stream) == bool(self.requests),
            f"rounds {self.rounds}: an even number (or 1), so that each side goes first equally often": (
                self.rounds > 1 and self.rounds % 2
            ),
            f"starts {self.starts}: 1, or from {ratios.LEAST} on a number that divides the {self.rounds} rounds": (
                self.starts and self.starts > 1 and (self.starts < ratios.LEAST or self.rounds % self.starts)
            ),
            "request_rates go with requests, their number at each rate": self.request_rates and not self.requests,
            "until_saturated goes with a concurrency that rises": (
                self.until_saturated and self.concurrency != sorted(set(self.concurrency))
            )
            or (self.until_saturated and len(self.concurrency) < 2),
        }
        if broken := [rule for rule, is_broken in rules.items() if is_broken]:
            raise ValueError("; ".join(broken))
        return self

    @property
    def times_started(self) -> int:
        """How often both servers are started."""
        return self.starts or (self.rounds if self.rounds > ratios.LEAST else 1)

    @property
    def levels(self) -> list[Level]:
        rates = [Level(request_rate=rate) for rate in self.request_rates]
        return rates or [Level(concurrency=number) for number in self.concurrency]

    def requests_at(self, level: Level) -> int:
        return self.requests or (self.requests_per_stream or 1) * (level.concurrency or 1)

    @property
    def most_at_once(self) -> int:
        """Requests that the KV cache should hold at the same time."""
        at_once = max(self.concurrency, default=self.requests or 1)
        return min(at_once, self.engine.max_num_seqs or 256)

    @property
    def longest_request(self) -> int:
        """Tokens of the longest prompt and its answer."""
        known = longest(self.input_len) + longest(self.output_len)
        return known if self.input_len else self.engine.max_model_len or known

    @property
    def model_len(self) -> int:
        """The context that the engine must hold: longest request plus room for special tokens."""
        return self.engine.max_model_len or longest(self.input_len) + longest(self.output_len) + SPECIAL_TOKENS


def longest(length: int | Range | None) -> int:
    return length.longest if isinstance(length, Range) else length or 0


def shortest(length: int | Range | None) -> int:
    return length.shortest if isinstance(length, Range) else length or 0


def middle(length: int | Range) -> int:
    return length.middle if isinstance(length, Range) else length


def range_ratios(workload: Workload) -> str | None:
    """vLLM's --random-range-ratio; None where both lengths are fixed."""
    lengths = {"input": workload.input_len, "output": workload.output_len}
    if not any(isinstance(length, Range) for length in lengths.values()):
        return None
    return json.dumps({name: length.ratio if isinstance(length, Range) else 0.0 for name, length in lengths.items()})


def load_workload(name: str, trusted: Collection[str] = (), engine: Sequence[str] = ()) -> Workload:
    """Reads and validates a workload: a path or a shipped name. The path of its prompts is then absolute.

    `engine` are the items of --engine, which lie over the engine settings of the workload itself (engines.put_over).
    `trusted` are arguments of vLLM's that both may set although they are not about speed (trust.require_trusted).
    Raises InputError with every problem in the files, and for a file of prompts that cannot be used.
    """
    path = shipped.find("workloads", name)
    document = load_yaml(path, atomic.read_input(path), HINT)
    engines.put_over_engine_of(document, engine)
    workload = validate(document, Workload, HINT)
    require_names(workload.engine)
    require_trusted(workload.engine.extra_args, trusted)
    if workload.prompts is None:
        return workload
    found = (path.parent / Path(workload.prompts.path).expanduser()).resolve()
    prompts.usable(workload.prompts.format, found, has_output_len=workload.output_len is not None)
    read = prompts.as_vllm_reads_it(found)
    return workload.model_copy(update={"prompts": workload.prompts.model_copy(update={"path": str(read)})})


def recorded(record: WorkloadRecord, engine: Sequence[str] = ()) -> Workload:
    """The workload that `record` made this of, with the items of --engine over its engine settings.

    Raises InputError if this version does not know it any more, or its prompts are not what they were.
    """
    given = record.model_dump()
    sha256 = (given.get("prompts") or {}).pop("sha256", None)
    engines.put_over_engine_of(Document(Path(record.name), given), engine)
    try:
        workload = Workload.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(
            f"the workload {record.name} on record is not one of this version: {first['loc']}: {first['msg']}",
            hint="quantpress bench RECIPE measures under one of today",
        ) from error
    if workload.prompts:
        path = Path(workload.prompts.path)
        if not path.is_file() or digests.sha256_file(path) != sha256:
            raise InputError(
                f"{path}, the prompts of the workload {record.name}, are not those on record", hint=f"restore {path}"
            )
    return workload


def record(workload: Workload) -> WorkloadRecord:
    """The workload as results hold it, with the sha256 of its prompts."""
    dump: dict[str, Any] = workload.model_dump(exclude_none=True, exclude_defaults=False)
    if workload.prompts:
        dump["prompts"]["sha256"] = digests.sha256_file(Path(workload.prompts.path))
    return WorkloadRecord.model_validate(dump)
