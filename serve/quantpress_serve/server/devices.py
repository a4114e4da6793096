"""Which of this machine's GPUs a server takes: vLLM by itself takes the first ones, whatever runs there."""

from __future__ import annotations

from quantpress.runtime import environment
from quantpress.runtime.environment import Gpu
from quantpress_serve.workload.engine import UTILIZATION, Engine

Devices = tuple[str, ...]  # as CUDA_VISIBLE_DEVICES names them


def for_one(engine: Engine) -> Devices:
    """The GPUs of a server that runs alone, as they are now (other_than_first)."""
    return other_than_first(environment.visible_gpus(), engine)


def other_than_first(gpus: list[Gpu], engine: Engine) -> Devices:
    """Free GPUs for one server, where something else is on the first ones; empty where vLLM may take those, or no
    others are free."""
    free = next(iter(for_each(gpus, engine, 1)), ())
    return () if free == tuple(gpu.device for gpu in gpus[: engine.devices]) else free


def for_each(gpus: list[Gpu], engine: Engine, servers: int) -> tuple[Devices, ...]:
    """GPUs for each server, all of one kind and as free as vLLM asks them to be when it starts; none if too few are."""
    share, each = engine.gpu_memory_utilization or UTILIZATION, engine.devices
    free = [gpu for gpu in gpus if gpu.memory and gpu.free >= share * gpu.memory]
    for kind in dict.fromkeys(gpu.kind for gpu in free):
        devices = [gpu.device for gpu in free if gpu.kind == kind][: each * servers]
        if len(devices) == each * servers:
            return tuple(tuple(devices[start : start + each]) for start in range(0, len(devices), each))
    return ()
