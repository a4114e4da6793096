"""What later stages of `run` need, tried before the first one begins: nobody waits for hours to hear of it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from quantpress.artifact.manifest import artifact_of
from quantpress.artifact.throughput import BASELINE, CANDIDATE
from quantpress.cli import installation
from quantpress.errors import CapabilityError, InputError
from quantpress.model.config import positions, text_config
from quantpress.runtime import disk
from quantpress_serve.bench.pairing import AUTO, decide
from quantpress_serve.bench.servers import kv_spaces
from quantpress_serve.probes import asking
from quantpress_serve.server import fit
from quantpress_serve.vllm import python_of

if TYPE_CHECKING:
    from quantpress.model.source import Model
    from quantpress.plan.resolve import Plan
    from quantpress_serve.workload.workload import Workload


def require_place(out: Path) -> None:
    """Raises CapabilityError if nothing can be written to `out`, or a library that a later stage loads is missing."""
    disk.require_writable(out)
    for problem in installation.packages()[1]:
        if problem.blocks:
            raise CapabilityError(problem.what, hint=problem.command)


def require_room(out: Path, model: Model, plans: Sequence[Plan]) -> None:
    """Raises CapabilityError if the checkpoints that are not there yet do not fit on the disk together."""
    if new := _not_made(out, model, plans):
        largest = max(plan.weight_bytes for plan in new)
        disk.require_space(out, max(int(largest * 1.5), sum(plan.checkpoint_bytes for plan in new)))


def _not_made(out: Path, model: Model, plans: Sequence[Plan]) -> list[Plan]:
    return [plan for plan in plans if artifact_of(out, model.name, plan.recipe.name).manifest() is None]


def require_servers_here(
    vllm: Path, load: Workload, out: Path, model: Model, plans: Sequence[Plan], asked: str = AUTO
) -> None:
    """Raises InputError if the workload is longer than the model's context, CapabilityError if this vLLM cannot be
    loaded, or the memory (of the GPUs, where there are any) does not hold the servers in the pairing that is asked
    for."""
    require_context(load, model)
    if not plans:  # what was adopted has been served before
        return
    if python_of(vllm):
        asking.arguments(vllm)
    load = load.model_copy(update={"engine": fit.for_load(load, plans, model.config, asked).engine})
    if new := _not_made(out, model, plans):
        weights = {CANDIDATE: max(plan.checkpoint_bytes for plan in new), BASELINE: new[0].weight_bytes}
        kv_spaces(model.config, load, weights, decide(asked, model.config, load, weights))


def require_context(load: Workload, model: Model) -> None:
    """Raises InputError if the workload is longer than the model's context."""
    longest = positions(model.config)
    if longest and load.model_len > longest and not _may_be_longer(model):
        raise InputError(
            f"the workload {load.name} needs a context of {load.model_len} tokens, "
            f"and {model.name} has {longest} positions",
            hint="name another --workload, or shorten its input_len, output_len or engine.max_model_len",
        )


def _may_be_longer(model: Model) -> bool:
    """Whether vLLM may derive a longer context than the positions: rotary ones can be scaled, and it can be forced."""
    config = text_config(model.config)
    scaled = any("factor" in str(config.get(name)) for name in ("rope_scaling", "rope_parameters"))
    return scaled or os.environ.get("VLLM_ALLOW_LONG_MAX_MODEL_LEN", "") in ("1", "true", "True")
