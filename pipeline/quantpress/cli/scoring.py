"""The options of an evaluation, and the request that they make."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from quantpress.errors import CapabilityError, InputError
from quantpress.runtime import console

if TYPE_CHECKING:
    from quantpress_evaluate.request import Request
    from quantpress_serve.workload.engine import Engine


@dataclass(frozen=True)
class Scoring:
    """How checkpoint and model are scored, and what must come of it."""

    suite: str
    data: str | None
    backend: str | None
    gate: list[str]
    extend: bool
    count_no_signal: bool
    noise_floor: bool
    limit: int | None


def add_scoring(parser: argparse.ArgumentParser) -> None:
    """The options of `Scoring`."""
    add_suite(parser)
    add_how_to_score(parser)


def add_how_to_score(parser: argparse.ArgumentParser) -> None:
    """The same without the suite and its data."""
    parser.add_argument(
        "--backend",
        choices=("auto", "hf", "vllm"),
        help="what computes the likelihoods: transformers (hf), or the vLLM that will serve; auto: vLLM on GPUs, on a "
        "CPU transformers unless it would not compute what vLLM does",
    )
    add_gate(parser)
    parser.add_argument(
        "--extend", action="store_true", help="take more documents until every gate is decided, beginning with --limit"
    )
    add_count_no_signal(parser)
    parser.add_argument(
        "--noise-floor",
        action="store_true",
        help="score the model again, in other batches and by the other backend: differences of no meaning",
    )
    parser.add_argument("--limit", type=int, help="score only N documents of each task, a random sample")


def add_suite(parser: argparse.ArgumentParser) -> None:
    """--suite and --data."""
    parser.add_argument("--suite", default="commonsense", help="a shipped suite's name or a path (%(default)s)")
    add_data(parser)


def add_data(parser: argparse.ArgumentParser) -> None:
    """--data."""
    parser.add_argument("--data", help="folder of <task>.jsonl in the hub's schema (default: $QUANTPRESS_DATA)")


def add_gate(parser: argparse.ArgumentParser) -> None:
    """--gate."""
    parser.add_argument(
        "--gate",
        action="append",
        default=[],
        metavar="GATE",
        help="what must hold, or exit code 3: recovery>=0.99, kl<=0.05, flips<=5%%, arc_easy:recovery>=0.98",
    )


def add_count_no_signal(parser: argparse.ArgumentParser) -> None:
    """--count-no-signal."""
    parser.add_argument(
        "--count-no-signal", action="store_true", help="count tasks on which the model itself only guesses, too"
    )


def requested(scoring: Scoring, vllm: str | None, compute_dtype: str, engine: Engine | None = None) -> Request:
    """The evaluation that was asked for; `engine` is that of a vLLM that scores. Whether there are the tasks that gates
    name is known once lm-eval has resolved groups (quantpress_evaluate.request.checked).

    Raises InputError for what is wrong with its files and options.
    """
    from quantpress_evaluate.comparison import gates
    from quantpress_evaluate.request import Request
    from quantpress_evaluate.suite import load_suite, resolve_tasks
    from quantpress_serve.workload.engine import Engine

    if scoring.limit is not None and scoring.limit < 1:
        raise InputError(f"--limit {scoring.limit}: at least one document", hint="leave --limit out to score them all")
    suite, path = load_suite(scoring.suite)
    folder = scoring.data or os.environ.get("QUANTPRESS_DATA") or None
    tasks = resolve_tasks(suite, path, Path(folder) if folder else None, scoring.limit)
    return Request(
        suite,
        tasks,
        gates=tuple(dict.fromkeys(gates.parse(gate) for gate in (*suite.gates, *scoring.gate))),
        noise_floor=scoring.noise_floor,
        backend=scoring.backend or suite.backend,
        vllm=vllm,
        compute_dtype=compute_dtype,
        engine=engine or Engine(),
        count_no_signal=suite.count_no_signal or scoring.count_no_signal,
        extend=scoring.extend,
    )


def checked_request(
    scoring: Scoring,
    vllm: str | None,
    compute_dtype: str,
    reasons: Sequence[str | None],
    engine: Engine,
    elsewhere: bool = False,
) -> Request:
    """The evaluation asked for, its tasks and documents tried before anything is made. `reasons` say of each checkpoint
    why transformers does not compute it as vLLM does (None: it does). What scores `elsewhere` is not known here.

    Raises CapabilityError if vLLM is to score and there is none, InputError for an engine setting that it does not
    take.
    """
    from quantpress_evaluate.request import checked
    from quantpress_serve.probes import asking

    request = checked(requested(scoring, vllm, compute_dtype, engine))
    by_vllm = any(request.for_checkpoint(reason)[0].backend == "vllm" for reason in reasons)
    if by_vllm:
        asking.require_engine(engine, _vllm_to_score(request))
    if engine.deciding() and not by_vllm and not elsewhere:
        console.warn("transformers scores here, and knows nothing of --engine: --backend vllm scores with it")
    return request


def _vllm_to_score(request: Request) -> Path:
    from quantpress_serve.vllm import find_vllm

    try:
        return find_vllm(request.vllm)
    except CapabilityError as error:
        if request.backend == "vllm":
            raise
        raise CapabilityError(error.message, hint=f"{error.hint}; --backend hf scores with transformers") from error
