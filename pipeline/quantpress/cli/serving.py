"""The options of a bench: what load is put on which servers."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from quantpress_serve.bench.subject import Sides


@dataclass(frozen=True)
class Serving:
    """The workload, and the two servers: started with an executable, or reached by their URLs."""

    workload: str
    fresh: bool
    vllm: str | None
    port: int | None
    vllm_url: str | None
    baseline_url: str | None

    @property
    def target(self) -> str:
        """The target where none is named: this machine, or any where someone else serves."""
        return "any" if self.vllm_url else "auto"

    def sides(self) -> Sides:
        from quantpress_serve.bench.subject import Sides

        return Sides(vllm=self.vllm, port=self.port, vllm_url=self.vllm_url, baseline_url=self.baseline_url)


def add_serving(parser: argparse.ArgumentParser) -> None:
    """The options of `Serving`, without --vllm."""
    parser.add_argument("--workload", default="chat", help="a shipped workload's name or a path (%(default)s)")
    parser.add_argument("--fresh", action="store_true", help="measure again even if this was measured before")
    parser.add_argument("--vllm-url", metavar="URL", help="a server that already serves the checkpoint")
    parser.add_argument("--baseline-url", metavar="URL", help="a server that already serves the unquantized model")
    parser.add_argument("--port", type=int, help="port of the server on this machine (default: a free one)")
