"""A workload: what load to put on a server, and with which engine settings, as data."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from quantpress import files, located_yaml, shipped
from quantpress.modifiers import Strict

HINT = "correct the workload; serve/workloads/chat.yaml is one that works"


class Engine(Strict):
    """vLLM engine arguments by vLLM's own names; None or "auto" leaves the choice to quantpress or vLLM."""

    max_model_len: int | None = Field(default=None, ge=16)
    tensor_parallel_size: int = Field(default=1, ge=1)
    gpu_memory_utilization: float | None = Field(default=None, gt=0, le=1)
    kv_cache_dtype: Literal["auto", "fp8"] = "auto"
    enforce_eager: bool | Literal["auto"] = "auto"


class Workload(Strict):
    """Random prompts of `input_len` tokens, answers of exactly `output_len`.

    At concurrency C, C * `requests_per_stream` requests are sent, never more than C at once; every cell is measured
    in `rounds` pairs of candidate and baseline.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")
    description: str = Field(min_length=1)
    input_len: int = Field(ge=1)
    output_len: int = Field(ge=1)
    concurrency: list[Annotated[int, Field(ge=1)]] = Field(min_length=1)
    requests_per_stream: int = Field(ge=1)
    rounds: int = Field(default=3, ge=1)
    prefix_caching: bool = False
    engine: Engine = Engine()

    @property
    def model_len(self) -> int:
        """The context that the engine must hold: longest request plus room for special tokens."""
        return self.engine.max_model_len or self.input_len + self.output_len + 64


def load(name: str) -> Workload:
    """Reads and validates a workload: a path or a shipped name. Raises InputError with every problem in the file."""
    path = shipped.find("workloads", name)
    document = located_yaml.load(path, files.read_input(path), HINT)
    return located_yaml.validate(document, Workload, HINT)
