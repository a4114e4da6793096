"""The options of a bench: what load is put on which servers."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING

from quantpress.cli.options import add_engine
from quantpress.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from quantpress_serve.bench.subject import Sides
    from quantpress_serve.workload.workload import Workload


@dataclass(frozen=True)
class Serving:
    """The workload, and the two servers: started with an executable, or reached by their URLs."""

    workload: str
    fresh: bool
    vllm: str | None
    port: int | None
    vllm_url: str | None
    baseline_url: str | None
    vllm_model: str | None
    baseline_model: str | None
    api_key_env: str | None
    engine: list[str]
    trust_workload: list[str]
    require_kernels: bool
    pairing: str
    online: str | None

    @property
    def target(self) -> str:
        """The target where none is named: this machine, or any where someone else serves."""
        return "any" if self.vllm_url else "auto"

    def load(self) -> Workload:
        """The workload, with the engine that was asked for. Raises InputError for what is wrong with either."""
        from quantpress_serve.workload.workload import load_workload

        return load_workload(self.workload, self.trust_workload, self.engine)

    def sides(self) -> Sides:
        """Raises InputError for a key that is not there or that nobody would ask for, and for kernels that are required
        of a server whose log is not ours."""
        from quantpress_serve.bench.subject import Sides
        from quantpress_serve.server.key import read_key

        if self.api_key_env is not None and not self.vllm_url:
            raise InputError("--api-key-env goes with --vllm-url", hint="our own servers ask for no key: leave it out")
        if self.require_kernels and self.vllm_url:
            raise InputError(
                "--require-kernels reads the log of a server that bench starts, and --vllm-url names one that runs",
                hint="leave out one of them",
            )
        return Sides(
            vllm=self.vllm,
            port=self.port,
            vllm_url=self.vllm_url,
            baseline_url=self.baseline_url,
            vllm_model=self.vllm_model,
            baseline_model=self.baseline_model,
            key=read_key(self.api_key_env) if self.vllm_url else None,
            pairing=self.pairing,
        )

    def require_online(self, vllm: Path) -> None:
        """Raises InputError or CapabilityError for a method of --online by which nothing is quantized here."""
        from quantpress_serve.bench import online

        if self.online and self.vllm_url:
            raise InputError(
                f"--online {self.online} starts a server of our own, and --vllm-url names one that runs",
                hint="leave one of them out",
            )
        if self.online:
            online.require_method(self.online, vllm)

    def require_one(self, recipes: list[str]) -> None:
        """Raises InputError for several recipes where one server was named: it serves one checkpoint."""
        if self.vllm_url and len(recipes) > 1:
            raise InputError(
                f"--vllm-url names the server of one checkpoint, and there are {len(recipes)} recipes",
                hint="quantpress bench RECIPE --vllm-url URL for each, or leave it out",
            )


def add_workload(parser: argparse.ArgumentParser) -> None:
    """--workload, --engine and --trust-workload."""
    parser.add_argument("--workload", default="chat", help="a shipped workload's name or a path (%(default)s)")
    add_engine(parser)


def add_online(parser: argparse.ArgumentParser) -> None:
    """--online."""
    parser.add_argument(
        "--online",
        metavar="METHOD",
        help="beside the recipe, the model itself as vLLM quantizes it while it loads (its --quantization METHOD)",
    )


def add_serving(parser: argparse.ArgumentParser) -> None:
    """The options of `Serving`, without --vllm."""
    add_workload(parser)
    parser.add_argument("--fresh", action="store_true", help="measure again even if this was measured before")
    add_how_to_serve(parser)
    add_online(parser)
    parser.add_argument("--vllm-url", metavar="URL", help="a server that already serves the checkpoint")
    parser.add_argument("--vllm-model", metavar="NAME", help="its name at --vllm-url, if that serves several models")
    parser.add_argument("--baseline-url", metavar="URL", help="a server that already serves the unquantized model")
    parser.add_argument("--baseline-model", metavar="NAME", help="its name at --baseline-url, likewise")
    parser.add_argument(
        "--api-key-env",
        metavar="NAME",
        help="the environment variable that holds the key of these servers (default: OPENAI_API_KEY)",
    )
    parser.add_argument("--port", type=int, help="port of the server on this machine (default: a free one)")


def add_how_to_serve(parser: argparse.ArgumentParser) -> None:
    """--pairing and --require-kernels."""
    parser.add_argument(
        "--pairing",
        choices=("auto", "apart", "together", "alternating"),
        default="auto",
        help="how the servers share the machine: at the same time on different GPUs, at the same time on one device "
        "with half of its memory each, or one after the other with all of it; auto: the first in which both fit "
        "(%(default)s)",
    )
    parser.add_argument(
        "--require-kernels",
        action="store_true",
        help="exit code 4 before any load if vLLM chose other kernels than `plan` says for this machine",
    )
