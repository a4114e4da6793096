"""vLLM engine settings as data, by vLLM's own names, and what vLLM's argument parser says of them."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from quantpress.errors import InputError, nearest
from quantpress.language.validation import Strict
from quantpress.runtime.records import Record
from quantpress_serve.workload.trust import canonical

# Of an argument of vLLM's, as a file names it: whatever YAML can say.
Value = bool | int | float | str | list[Any] | dict[str, Any]

# What quantpress sets itself, each from the field or option named here.
OURS = {
    "model": "--model",
    "model-tag": "--model",
    "host": "--port",
    "port": "--port",
    "served-model-name": "the recipe's name",
    "seed": "quantpress: it is always 0",
    "load-format": "--weights",
    "tokenizer": "--model",
    "trust-remote-code": "--trust-remote-code",
    "enable-prefix-caching": "the workload's prefix_caching",
}

# Fields that were extra arguments once.
_ONCE_EXTRA = ("data_parallel_size", "enable_expert_parallel")
UTILIZATION = 0.9  # of a GPU's memory, where the engine names no share of it; vLLM itself would take 0.92
_WORD = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"


class Engine(Strict):
    """vLLM engine arguments by vLLM's own names; None or "auto" leaves the choice to quantpress or vLLM."""

    max_model_len: int | None = Field(
        default=None,
        ge=16,
        description="Tokens of context; what the load needs (where scores are made, what the suite says).",
    )
    tensor_parallel_size: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        default="auto",
        description="GPUs that share each layer (on a CPU, processes that share the cores). `auto`: as few as weights "
        "and KV cache fit; on a CPU 1.",
    )
    pipeline_parallel_size: int = Field(default=1, ge=1, description="GPUs that take turns.")
    data_parallel_size: int | None = Field(
        default=None, ge=1, description="Copies of the model, each on GPUs of its own, that share the requests; 1."
    )
    enable_expert_parallel: bool | None = Field(
        default=None, description="Experts are spread over all of these GPUs, whole, instead of each being split."
    )
    gpu_memory_utilization: float | None = Field(
        default=None, gt=0, le=1, description="Share of each GPU's memory, for all servers on it together; 0.9."
    )
    kv_cache_dtype: str = Field(default="auto", pattern=_WORD, description="`fp8` and what else vLLM takes.")
    quantization: str | None = Field(default=None, pattern=_WORD, description="vLLM's choice by the checkpoint.")
    max_num_seqs: int | None = Field(default=None, ge=1, description="Sequences in a batch; vLLM's default.")
    max_num_batched_tokens: int | None = Field(default=None, ge=1, description="Tokens in a step; vLLM's default.")
    enforce_eager: bool | Literal["auto"] = Field(
        default="auto", description="Nothing compiled, no CUDA graphs; on CPUs only."
    )
    extra_args: dict[str, Value] = Field(
        default={},
        description="Other arguments of `vllm serve` that are about speed: `{enable-chunked-prefill: false}`; the rest "
        "with `--trust-workload`.",
    )

    @model_validator(mode="before")
    @classmethod
    def _once_extra(cls, data: Any) -> Any:
        """Workloads of earlier versions have what is a field today among the extra arguments."""
        extra = data.get("extra_args") if isinstance(data, dict) else None
        if not isinstance(extra, dict):
            return data
        fields = {given: canonical(str(given)).replace("-", "_") for given in extra}
        moved = {given: name for given, name in fields.items() if name in _ONCE_EXTRA}
        kept = {given: value for given, value in extra.items() if given not in moved}
        return {**{name: extra[given] for given, name in moved.items()}, **data, "extra_args": kept}

    @property
    def devices(self) -> int:
        """GPUs that one server takes, or on a CPU processes; tensor parallelism counts as 1 while it is `auto`."""
        shared = 1 if self.tensor_parallel_size == "auto" else self.tensor_parallel_size
        return shared * self.pipeline_parallel_size * (self.data_parallel_size or 1)

    def online(self, method: str | None) -> Engine:
        """The same for a model that vLLM quantizes by this method while it loads it; None: as it is."""
        return self.model_copy(update={"quantization": method}) if method else self

    def options(self) -> dict[str, Value]:
        """Every argument that is not left to quantpress or vLLM, by its name on vLLM's command line."""
        fields = self.model_dump(exclude={"extra_args", "enforce_eager", "gpu_memory_utilization", "max_model_len"})
        options: dict[str, Value] = {
            name.replace("_", "-"): value for name, value in fields.items() if value is not None
        }
        for name in ("pipeline-parallel-size", "data-parallel-size"):
            if options.get(name) == 1:
                del options[name]
        if self.tensor_parallel_size == "auto":
            del options["tensor-parallel-size"]
        return options | {canonical(name): value for name, value in self.extra_args.items()}

    def deciding(self) -> dict[str, Value]:
        """What of it may change the numbers that come out: all that is not as it is by default on one device, but for
        context and memory."""
        usual = Engine(tensor_parallel_size=1).options()
        eager: dict[str, Value] = {} if self.enforce_eager == "auto" else {"enforce-eager": self.enforce_eager}
        return {name: value for name, value in self.options().items() if usual.get(name) != value} | eager

    def arguments(self) -> list[str]:
        return [word for name, value in self.options().items() for word in words(name, value)]

    def command_line(self) -> list[str]:
        """All that was named of it as words behind `vllm serve MODEL`, for a server that has its GPUs to itself."""
        named, options = self.model_fields_set, self.options()
        if "kv_cache_dtype" not in named:
            options.pop("kv-cache-dtype")
        one = [name for name in ("pipeline_parallel_size", "data_parallel_size") if name in named]
        options |= {name.replace("_", "-"): getattr(self, name) or 1 for name in one}
        memory = {"max-model-len": self.max_model_len, "gpu-memory-utilization": self.gpu_memory_utilization}
        given = [word for name, value in memory.items() if value is not None for word in (f"--{name}", str(value))]
        ours = [word for name, value in options.items() for word in words(name, value)]
        eager = [] if self.enforce_eager == "auto" else words("enforce-eager", self.enforce_eager)
        return [*ours, *given, *eager]


class Argument(Record):
    """An argument of `vllm serve`, as vLLM's own parser knows it (probes/arguments_probe.py)."""

    flag: bool
    choices: list[str] | None
    type: str | None
    several: bool


def words(name: str, value: Value) -> list[str]:
    """One argument as words of a command line: flags by true and false, lists spread, mappings as JSON.

    Name and value are one word, so that no value can be read as an argument (nor an item: trust.require_trusted).
    """
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    if isinstance(value, list):
        return [f"--{name}", *map(str, value)]
    return [f"--{name}={json.dumps(value) if isinstance(value, dict) else value}"]


def require_names(engine: Engine) -> None:
    """Raises InputError for an extra argument that quantpress sets itself or that is a field of its own."""
    for given in engine.extra_args:
        name = canonical(given)
        if name.removeprefix("no-") in OURS:
            raise InputError(
                f"engine.extra_args.{given}: quantpress sets this argument itself",
                hint=f"it comes from {OURS[name.removeprefix('no-')]}",
            )
        if (field := name.replace("-", "_")) in Engine.model_fields:
            raise InputError(f"engine.extra_args.{given} is a setting of its own", hint=f"write engine.{field}")


def require_taken(engine: Engine, known: dict[str, Argument], version: str) -> None:
    """Raises InputError for a setting that vLLM's argument parser (`asking.arguments`) does not take."""
    for name, value in engine.options().items():
        option = known.get(name)
        if option is None:
            raise InputError(
                f"engine: vLLM {version} has no argument --{name}; {nearest(name, known)}",
                hint="`vllm serve --help=all` lists them",
            )
        if problem := _wrong_value(option, value):
            raise InputError(
                f"engine: --{name} of vLLM {version} {problem}, not {value!r}", hint="correct the workload, or --engine"
            )


def _wrong_value(option: Argument, value: Value) -> str | None:
    """What is wrong with a value in the terms of argparse; None where nothing is, or only vLLM itself can say."""
    if option.flag != isinstance(value, bool):
        return "is a flag: true or false" if option.flag else "takes a value"
    if isinstance(value, list):
        return None if option.several else "takes one value"
    if option.choices and str(value) not in option.choices:
        return f"takes one of {', '.join(option.choices)}"
    kinds: dict[str | None, tuple[type, ...]] = {"int": (int,), "float": (int, float)}
    expected = kinds.get(option.type)
    return f"takes a number of type {option.type}" if expected and not isinstance(value, expected) else None
