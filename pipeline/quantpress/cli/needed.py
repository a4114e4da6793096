"""What each stage will need of this machine, and whether it has it: what `quantpress plan` says beforehand."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from quantpress.errors import CapabilityError, StageError
from quantpress.plan import arithmetic, needs, pace
from quantpress.plan.pace import Time
from quantpress.plan.summary import size_in_words
from quantpress.quantize import streaming
from quantpress.runtime import environment, free_memory
from quantpress.runtime.records import Record
from quantpress_serve.server import memory

if TYPE_CHECKING:
    from quantpress.model.source import Model
    from quantpress.plan.arithmetic import ComputeDtype
    from quantpress.plan.resolve import Plan

# The suite commonsense, of which nothing was scored here yet: its documents, and the tokens of one with its choices.
_SUITE, _DOCUMENTS, _TOKENS_OF_ONE = "commonsense", 1000, 170
_SIDES = 2


class Stage(Record):
    """What a stage needs: bytes of memory at its peak and of disk, and its time; None where that is not known.

    `memory` is the process's own, on a GPU too, and `free` are the bytes that the machine has now.
    """

    name: str
    memory: int | None
    how: str = ""
    free: int
    disk: int
    time: Time | None
    note: str = ""

    @property
    def fits(self) -> bool:
        return self.memory is None or self.memory <= self.free

    @property
    def words(self) -> str:
        short = "" if self.fits else f", more than the {size_in_words(self.free)} that are free"
        held = "memory as the engine is told"
        if self.memory:
            held = f"{size_in_words(self.memory)} of memory{self.how}{short}"
        written = f"{size_in_words(self.disk)} of disk" if self.disk else "no disk to speak of"
        return f"{self.name:9} {held}; {written}; {self.time.words if self.time else self.note}"


@dataclass(frozen=True)
class Machine:
    """What is known of this machine before anything runs: free bytes, and GFLOP/s by type (none on a GPU)."""

    free: int
    disk: int
    speeds: dict[str, float] | None
    compute: ComputeDtype


def machine_for(model: Model, out: Path) -> Machine:
    """This machine; how fast its CPU multiplies in the model's type is tried once and kept."""
    existing = next(parent for parent in (out, *out.absolute().parents) if parent.exists())
    free, disk = free_memory.available(), shutil.disk_usage(existing).free
    if environment.gpus():
        return Machine(free, disk, None, "stored")
    try:
        speeds = arithmetic.product_speeds(_dtype(model))
        return Machine(free, disk, speeds, arithmetic.compute_dtype(model, "auto"))
    except StageError:
        return Machine(free, disk, None, "stored")


def _dtype(model: Model) -> str:
    return arithmetic.stored_dtype(model.config) or "bfloat16"


def stages(plan: Plan, model: Model, out: Path, machine: Machine) -> list[Stage]:
    """What quantize, evaluate and bench need, in this order."""
    return [stage(plan, model, out, machine) for stage in (_quantize, _evaluate, _bench)]


def _quantizing_bytes(plan: Plan, model: Model, free: int) -> tuple[int, bool]:
    """The memory, and whether the weights stay on the disk because they do not fit into what is free. Of one process,
    where the model is taken piece by piece: more are started only where they fit."""
    if streaming.is_streamed(plan, model):
        return streaming.peak_bytes(plan, model), False
    whole = needs.quantizing_bytes(plan, model.config)
    return (whole, False) if whole <= free else (needs.offloaded_bytes(plan, model.config), True)


def _quantize(plan: Plan, model: Model, out: Path, machine: Machine) -> Stage:
    memory, on_disk = _quantizing_bytes(plan, model, machine.free)
    return Stage(
        name="quantize",
        memory=memory,
        how=" (the weights stay on the disk)" if on_disk else "",
        free=machine.free,
        disk=streaming.disk_bytes(plan, model, on_disk),
        time=pace.of_quantizing(plan, model.name, out) or _counted(needs.quantizing_work(plan), model, machine),
        note="time known after a first run",
    )


def _evaluate(plan: Plan, model: Model, out: Path, machine: Machine) -> Stage:
    work = needs.scoring_work(plan, _DOCUMENTS * _TOKENS_OF_ONE)
    counted = _counted(work, model, machine, _SIDES)
    if counted:
        counted = counted.model_copy(update={"source": f"counted for {_DOCUMENTS:,} documents of {_SUITE}"})
    return Stage(
        name="evaluate",
        memory=needs.scoring_bytes(plan, model.config, machine.compute == "float32"),
        free=machine.free,
        disk=0,
        time=pace.of_scoring(model.name, out) or counted,
        note="time known after a first run",
    )


def _bench(plan: Plan, model: Model, out: Path, machine: Machine) -> Stage:
    """Two servers side by side, or one at a time where both do not fit, each with a GiB of KV cache at least; on a GPU
    the engine takes what it is told."""
    each = int(memory.PER_SERVER + memory.GIB)
    both = plan.weight_bytes + plan.checkpoint_bytes + _SIDES * each
    alternating = both > machine.free
    on_cpu = max(plan.weight_bytes, plan.checkpoint_bytes) + each if alternating else both
    return Stage(
        name="bench",
        memory=None if environment.gpus() else on_cpu,
        how=" (one server at a time)" if alternating else "",
        free=machine.free,
        disk=0,
        time=pace.of_measuring(model.name, out),
        note="time known after a first bench (try --workload glance)",
    )


def _counted(work: needs.Work, model: Model, machine: Machine, times: int = 1) -> Time | None:
    dtype = "float32" if machine.compute == "float32" else _dtype(model)
    return pace.counted(work, machine.speeds, dtype, times) if machine.speeds else None


def lines(found: list[Stage]) -> list[str]:
    """For people, a line for each stage."""
    return [stage.words for stage in found]


def require_fits(plan: Plan, model: Model, machine: Machine, found: list[Stage]) -> None:
    """Raises CapabilityError, saying what would fit, if the checkpoint cannot be made here."""
    quantize = found[0]
    if not quantize.fits:
        raise CapabilityError(
            f"quantizing takes about {size_in_words(quantize.memory)} of memory, and {size_in_words(machine.free)} "
            "are free",
            hint=f"{'; '.join(_that_fit(plan, model, machine.free))}; --target any plans for another machine",
        )
    if quantize.disk > machine.disk:
        raise CapabilityError(
            f"quantizing takes {size_in_words(quantize.disk)} of disk, and {size_in_words(machine.disk)} are free",
            hint="free some space, or write elsewhere with --out; --target any plans for another machine",
        )


def _that_fit(plan: Plan, model: Model, free: int) -> list[str]:
    """What would fit into the memory: less at a time, no data, a smaller model."""
    found = []
    if calibration := plan.recipe.calibration:
        least = calibration.model_copy(update={"batch_size": 1})
        few = least.model_copy(update={"samples": max(1, calibration.samples // 4)})
        for settings, smaller in (("batch_size=1", least), (f"batch_size=1 and samples={few.samples}", few)):
            needed = _least(_with(plan, smaller), model)
            if needed <= free:
                found.append(f"calibration.{settings} would fit ({size_in_words(needed)})")
                break
        needed = _least(_with(plan, None), model)
        if needed <= free:
            found.append(f"a recipe without data would fit ({size_in_words(needed)}): recipes list")
    return found or ["a smaller model"]


def _least(plan: Plan, model: Model) -> int:
    """The memory that a plan takes whose model is held, or stays on the disk, whichever is less."""
    return min(needs.quantizing_bytes(plan, model.config), needs.offloaded_bytes(plan, model.config))


def _with(plan: Plan, calibration: object) -> Plan:
    recipe = plan.recipe.model_copy(update={"calibration": calibration})
    return replace(plan, recipe=recipe)
