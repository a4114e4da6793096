"""How the servers of a bench share the machine: decided once, before the first one is started, by what fits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from quantpress.artifact.throughput import ALTERNATING, APART, ATTACHED, BASELINE, CANDIDATE, TOGETHER
from quantpress.errors import CapabilityError
from quantpress.model.config import Config
from quantpress.runtime import environment
from quantpress.runtime.environment import Gpu
from quantpress_serve.server import memory
from quantpress_serve.server.devices import Devices, for_each, other_than_first
from quantpress_serve.server.fit import BESIDE
from quantpress_serve.server.memory import GIB
from quantpress_serve.workload.engine import UTILIZATION, Engine
from quantpress_serve.workload.workload import Workload

AUTO = "auto"


@dataclass(frozen=True)
class Pairing:
    """How the servers share the machine, and why. `devices` are each one's where they are on different GPUs, or on
    others than the first."""

    name: str
    reason: str
    devices: tuple[Devices, ...] = ()

    @property
    def memory_share(self) -> float:
        """Of a device's memory, for each server."""
        return 0.5 if self.name == TOGETHER else 1.0

    def devices_of(self, role: str, start: int) -> Devices:
        """The GPUs of a side's server, exchanged from start to start, because two of a kind are not equally fast;
        empty where vLLM may take what it finds."""
        if not self.devices:
            return ()
        return self.devices[((CANDIDATE, BASELINE).index(role) + start) % len(self.devices)]


@dataclass(frozen=True)
class Facts:
    """What decides. GiB beside the weights: what the load needs of each server's memory, and what each would have side
    by side on one device, and alone. `groups` are the GPUs of each server, where there are enough for all; `free`
    those of one server where something else is on the first ones; `told` is whether the memory is known.
    """

    needed: float
    together: float
    alone: float
    groups: tuple[Devices, ...] = ()
    free: Devices = ()
    told: bool = True


def chosen(asked: str, facts: Facts) -> Pairing:
    """The pairing that was asked for, or the first of APART, TOGETHER and ALTERNATING in which both servers have what
    the load needs. Raises CapabilityError for APART without enough GPUs."""
    if asked in (AUTO, APART) and facts.groups:
        each = len(facts.groups[0])
        return Pairing(APART, f"each server has {each} GPU{'s' * (each > 1)} of its own", facts.groups)
    if asked == APART:
        raise CapabilityError(
            "--pairing apart: there are not enough free GPUs of one kind for a server each",
            hint="--pairing together or alternating, or show more GPUs with CUDA_VISIBLE_DEVICES",
        )
    if not facts.told:
        name = ALTERNATING if asked == AUTO else asked
        return Pairing(name, "how much memory the devices have is not known here")
    on = (facts.free, facts.free) if facts.free else ()
    side_by_side = f"side by side each server would have {facts.together:.1f} GiB beside its weights"
    if asked == AUTO and facts.together >= facts.needed:
        return Pairing(TOGETHER, f"{side_by_side}, and the load needs {facts.needed:.1f}", on)
    if asked != AUTO:
        return Pairing(asked, "as --pairing asks", on)
    return Pairing(ALTERNATING, f"{side_by_side}, and the load needs {facts.needed:.1f}", on)


def require_room(pairing: Pairing, facts: Facts) -> None:
    """Raises CapabilityError if the weights alone are larger than the memory that a server would have."""
    room = facts.together if pairing.name == TOGETHER else facts.alone
    if facts.told and room <= 0:
        others = "--pairing alternating, " if pairing.name == TOGETHER and facts.alone > 0 else ""
        raise CapabilityError(
            f"pairing {pairing.name}: the weights of a server are {-room:.1f} GiB larger than the memory that it would "
            "have",
            hint=f"{others}a larger engine.tensor_parallel_size, or a machine with more memory",
        )


def decide(asked: str, config: Config, load: Workload, weights: Mapping[str, int]) -> Pairing:
    """The pairing on this machine, for servers with these weights (bytes, by role).

    Raises CapabilityError for one that cannot be; on a CPU memory.kv_space does that, by what it gives to each.
    """
    facts = facts_here(config, load, list(weights.values()))
    pairing = chosen(asked, facts)
    if environment.gpus():
        require_room(pairing, facts)
    return pairing


AS_ATTACHED = Pairing(ATTACHED, "the servers ran already")


def facts_here(config: Config, load: Workload, weights: list[int]) -> Facts:
    """What decides on this machine, as it is now."""
    needed = memory.named_space() or memory.needed_space(config, load)
    if not environment.gpus():
        # In whole GiB, as vLLM takes it.
        return Facts(
            needed=math.ceil(needed),
            together=memory.room(sum(weights), len(weights), load.engine.devices),
            alone=memory.room(max(weights), 1, load.engine.devices),
        )
    return facts_on(environment.visible_gpus(), load.engine, memory.needed_space(config, load), weights)


def facts_on(gpus: list[Gpu], engine: Engine, kv_cache: float, weights: list[int]) -> Facts:
    """What decides on these GPUs; `kv_cache` is what the load needs of each server (GiB), `weights` are in bytes."""
    each = engine.devices
    share = engine.gpu_memory_utilization or UTILIZATION
    first = gpus[:each]
    free = other_than_first(gpus, engine)
    if free:
        first = [gpu for gpu in gpus if gpu.device in free]
    whole = min((gpu.memory for gpu in first), default=0) * share * each / GIB
    copies = 1 if engine.enable_expert_parallel else engine.data_parallel_size or 1
    largest = copies * max(weights) / GIB
    return Facts(
        needed=kv_cache + BESIDE / GIB * each,
        together=whole / len(weights) - largest,
        alone=whole - largest,
        groups=for_each(gpus, engine, len(weights)),
        free=free,
        told=whole > 0,
    )
