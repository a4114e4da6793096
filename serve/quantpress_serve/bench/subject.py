"""What a bench measures, and how it reaches the two servers."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from quantpress.artifact.results import Results
from quantpress.artifact.throughput import BASELINE, CANDIDATE, Throughput
from quantpress.errors import CapabilityError, InputError
from quantpress.model.source import Model
from quantpress.plan.kernels import Kernels
from quantpress.runtime import console, digests
from quantpress_serve import surroundings
from quantpress_serve.bench.likelihoods import Scored
from quantpress_serve.bench.pairing import AUTO
from quantpress_serve.server import foreign, server
from quantpress_serve.server.foreign import Address
from quantpress_serve.server.server import Server
from quantpress_serve.vllm import find_vllm
from quantpress_serve.workload.workload import Workload


@dataclass(frozen=True, kw_only=True)
class Sides:
    """How to reach the two servers: an executable to start them with, or URLs of servers that run already.

    `baseline_vllm` is the executable of the baseline's server where that is another one. `vllm_model` and
    `baseline_model` name what is asked for at these URLs, `key` is what they ask for. `pairing` is how servers of our
    own share the machine (quantpress_serve.bench.pairing).
    """

    vllm: str | None = None
    baseline_vllm: Path | None = None
    port: int | None = None
    vllm_url: str | None = None
    baseline_url: str | None = None
    vllm_model: str | None = None
    baseline_model: str | None = None
    key: str | None = field(default=None, repr=False)
    pairing: str = AUTO

    def paired_as(self, measured: Throughput) -> Sides:
        """The same for what will stand beside this result: in its pairing, unless another one is asked for."""
        return replace(self, pairing=measured.paired) if self.pairing == AUTO else self

    def executable(self) -> Path:
        """The vllm executable; it also generates the load for servers that run already.

        Raises CapabilityError if there is none or no place for its sockets, InputError for a taken port.
        """
        if self.vllm_url:
            try:
                return find_vllm(self.vllm)
            except CapabilityError as error:
                hint = f"{error.hint}: its load generator is needed with --vllm-url too"
                raise CapabilityError(error.message, hint=hint) from error
        if self.port is not None:
            server.require_free(self.port)
        surroundings.sockets()
        return find_vllm(self.vllm)

    def attached(self, paths: dict[str, Path], load: Workload) -> dict[str, Server]:
        """The servers that run already, tried for all that a bench under this workload asks of them, by role.

        `paths` are the folders of what they serve. Raises InputError for one that does not do it.
        """
        found = {}
        for role, address in self._addresses().items():
            found[role] = foreign.attach(address, paths[role], load.longest_request)
        if len({(one.url, one.name) for one in found.values()}) < len(found):
            one = found[CANDIDATE]
            console.warn(f"candidate and baseline are the same model {one.name!r} of {one.url}: it is beside itself")
        return found

    def _addresses(self) -> dict[str, Address]:
        """Raises InputError for options that say nothing without --vllm-url or --baseline-url."""
        without = {"--baseline-url": self.baseline_url, "--vllm-model": self.vllm_model}
        given = [name for name, value in without.items() if value and not self.vllm_url]
        if given:
            raise InputError(f"{given[0]} goes with --vllm-url", hint="name the candidate's server too")
        if self.vllm_url and self.pairing != AUTO:
            raise InputError(
                f"--pairing {self.pairing} says how servers of our own are started, and --vllm-url names one that runs",
                hint="leave one of them out",
            )
        if self.baseline_model and not self.baseline_url:
            raise InputError("--baseline-model goes with --baseline-url", hint="name the baseline's server too")
        found = {}
        if self.vllm_url:
            found[CANDIDATE] = Address(url=self.vllm_url, model=self.vllm_model, key=self.key)
        if self.baseline_url:
            options = ("--baseline-url", "--baseline-model")
            found[BASELINE] = Address(url=self.baseline_url, model=self.baseline_model, key=self.key, options=options)
        return found


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is measured: two folders that vLLM serves, and where the result goes.

    `weights` is "real", or "dummy" for shapes without weights; `weight_bytes` are those of each side's,
    and `largest` those of the largest checkpoint of this run: all that will be compared are paired alike.
    `compute_dtype` is the type in which transformers computes, `untruthful` says why its likelihoods are not the
    checkpoint's, and `inexact` why the engine's will not be, as far as that is known beforehand. `kernels` are those
    that the plan counts on (None where that is not known), and `require_kernels` whether others are refused. `seen` are
    each side's files as they were before the digests were taken.
    `weight_bits` are those of its schemes, as throughput.json has them.
    `online` is the method by which vLLM quantizes the candidate while it loads it; None for a checkpoint.
    """

    name: str
    folder: Path
    digest: str
    candidate: Path
    model: Model
    model_digest: str
    weight_bytes: dict[str, int]
    largest: int = 0
    weights: str = "real"
    online: str | None = None
    tokenizer: Path | None = None
    compute_dtype: str = "stored"
    untruthful: str | None = None
    inexact: str | None = None
    kernels: Kernels | None = None
    require_kernels: bool = False
    seen: dict[str, digests.Seen] = field(default_factory=dict)
    weight_bits: list[int] = field(default_factory=list)

    @property
    def logs(self) -> Path:
        return (self.folder.parent if self.weights == "real" else self.folder) / "logs"

    @property
    def to_be_paired(self) -> dict[str, int]:
        """The bytes that decide how the servers share the machine."""
        return self.weight_bytes | {CANDIDATE: max(self.weight_bytes[CANDIDATE], self.largest)}

    @property
    def scored(self) -> dict[str, Scored]:
        """Both sides, as transformers computes them."""
        trust, beside = self.model.trust_remote_code, self.folder.parent / "baseline"
        own = Scored(self.candidate, self.digest, self.folder, trust, self.seen.get(CANDIDATE, {}))
        if self.on_two_engines:
            return {CANDIDATE: own, BASELINE: own}
        return {
            CANDIDATE: own,
            BASELINE: Scored(self.model.path, self.model_digest, beside, trust, self.seen.get(BASELINE, {})),
        }

    @property
    def on_two_engines(self) -> bool:
        """Whether both sides are the same checkpoint, and their engines are what differs."""
        return self.digest == self.model_digest

    @property
    def results(self) -> Results[Throughput]:
        return Results(self.folder, Throughput, self.digest)
