"""What a bench measures, and how it reaches the two servers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from quantpress.artifact.results import Results
from quantpress.artifact.throughput import BASELINE, CANDIDATE, Throughput
from quantpress.errors import InputError
from quantpress.model.source import Model
from quantpress_serve.bench.likelihoods import Scored
from quantpress_serve.server import server
from quantpress_serve.vllm import find_vllm


@dataclass(frozen=True, kw_only=True)
class Sides:
    """How to reach the two servers: an executable to start them with, or URLs of servers that run already."""

    vllm: str | None = None
    port: int | None = None
    vllm_url: str | None = None
    baseline_url: str | None = None

    def executable(self) -> Path:
        """The vllm executable; it also generates the load for servers that run already.

        Raises CapabilityError if there is none, InputError for a taken port or a URL that does not answer.
        """
        if self.port is not None:
            server.require_free(self.port)
        if self.baseline_url and not self.vllm_url:
            raise InputError("--baseline-url goes with --vllm-url", hint="name the candidate's server too")
        for url in filter(None, (self.vllm_url, self.baseline_url)):
            server.attach(url, Path())
        return find_vllm(self.vllm)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is measured: two folders that vLLM serves, and where the result goes.

    `weights` is "real", or "dummy" for shapes without weights; `weight_bytes` those of both sides together.
    `compute_dtype` is the type in which transformers computes, `untruthful` says why its likelihoods are not the
    checkpoint's, and `inexact` why the engine's will not be, as far as that is known beforehand.
    """

    name: str
    folder: Path
    digest: str
    candidate: Path
    model: Model
    model_digest: str
    weight_bytes: int
    weights: str = "real"
    tokenizer: Path | None = None
    compute_dtype: str = "stored"
    untruthful: str | None = None
    inexact: str | None = None

    @property
    def logs(self) -> Path:
        return (self.folder.parent if self.weights == "real" else self.folder) / "logs"

    @property
    def scored(self) -> dict[str, Scored]:
        """Both sides, as transformers computes them."""
        trust, beside = self.model.trust_remote_code, self.folder.parent / "baseline"
        return {
            CANDIDATE: Scored(self.candidate, self.digest, self.folder, trust),
            BASELINE: Scored(self.model.path, self.model_digest, beside, trust),
        }

    @property
    def results(self) -> Results[Throughput]:
        return Results(self.folder, Throughput, self.digest)
