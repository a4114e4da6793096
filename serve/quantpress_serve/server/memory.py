"""Memory for the KV cache of servers on a CPU, which vLLM takes in whole GiB (VLLM_CPU_KVCACHE_SPACE)."""

from __future__ import annotations

import math
import os
from typing import Any

from quantpress.errors import CapabilityError, InputError, shown
from quantpress.plan import sizes
from quantpress.runtime import console, free_memory
from quantpress_serve.workload.workload import Workload

GIB = 2**30
BLOCK = 128  # tokens; vLLM gives out the CPU's KV cache in blocks of this size
PER_SERVER = 2.5 * GIB  # what a server takes beside weights and KV cache, measured at 135M and 1B parameters
PER_PROCESS = 1.0 * GIB  # ... and what each process beyond the first takes
LARGEST = 16  # GiB, where nobody said how much is needed


def kv_space(config: dict[str, Any], workload: Workload, weight_bytes: int, sides: int) -> int:
    """GiB for the KV cache of each of `sides` servers: what the workload needs, if the machine has it.

    The variable VLLM_CPU_KVCACHE_SPACE overrides it. Raises CapabilityError if not even one GiB is left for each,
    InputError if that variable is no size.
    """
    if named := named_space():
        return named
    needed = math.ceil(needed_space(config, workload))
    space = room(weight_bytes, sides, workload.engine.devices)
    if space < 1:
        each, alone = (f" of each of {sides} servers", "--pairing alternating, ") if sides > 1 else ("", "")
        raise CapabilityError(
            f"{space:.1f} GiB of memory would be left for the KV cache{each} with "
            f"{weight_bytes / GIB:.1f} GiB of weights in all",
            hint=f"{alone}free memory, or set VLLM_CPU_KVCACHE_SPACE (GiB) to try all the same",
        )
    if needed > space:
        console.warn(
            f"the KV cache of each server gets {int(space)} GiB of the {needed} that the load fills; requests will wait"
        )
    return min(needed, int(space))


def needed_space(config: dict[str, Any], workload: Workload) -> float:
    """GiB that hold the most requests that the workload has under way at once; 2 where the config does not say."""
    context = (math.ceil(workload.model_len / BLOCK) + 1) * BLOCK
    element = 1 if workload.engine.kv_cache_dtype.startswith("fp8") else 2
    needed = sizes.kv_cache_bytes(config, context, workload.most_at_once, element)
    return needed / GIB if needed else 2


def room(weight_bytes: int, sides: int, processes: int = 1) -> float:
    """GiB that are left on a CPU for the KV cache of each of so many servers with these weights in all; a server's
    further processes take memory too."""
    beside = sides * (PER_SERVER + (processes - 1) * PER_PROCESS)
    return float(free_memory.available() - weight_bytes - beside) / sides / GIB


def kv_space_alone(weight_bytes: int) -> int:
    """GiB for a server that stays up, whose load nobody knows: half of what is left, at most LARGEST."""
    return named_space() or max(1, min(LARGEST, int(room(weight_bytes, 1) / 2)))


def named_space() -> int | None:
    """VLLM_CPU_KVCACHE_SPACE, if it is set. Raises InputError if it is no size."""
    named = os.environ.get("VLLM_CPU_KVCACHE_SPACE")
    if not named:
        return None
    if not named.isdecimal() or not int(named):
        raise InputError(
            f"VLLM_CPU_KVCACHE_SPACE is {shown(named)}; it is a whole number of GiB, 1 or more",
            hint="export VLLM_CPU_KVCACHE_SPACE=4, or unset it",
        )
    return int(named)
