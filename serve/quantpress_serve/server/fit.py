"""How many GPUs share a model: as few as its weights and the KV cache fit. Decided once, before a server is started."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

from quantpress.artifact.throughput import ALTERNATING, TOGETHER
from quantpress.errors import CapabilityError
from quantpress.model.config import Config, number_in, positions, text_config
from quantpress.plan import sizes
from quantpress.plan.sizes import Loadable
from quantpress.plan.summary import size_in_words
from quantpress.runtime import console, environment
from quantpress_serve.workload.engine import UTILIZATION, Engine
from quantpress_serve.workload.workload import Workload

# Bytes of each GPU for activations and CUDA graphs. An estimate: we had no GPU to measure it on. It decides only
# whether one GPU more is taken, or two servers are put on one, and refuses nothing.
BESIDE = 3 * 2**30
_LARGEST = 1024  # GPUs that a hint speaks of
_CONTEXT = 4096  # tokens, where neither engine nor model says


@dataclass(frozen=True, kw_only=True)
class Need:
    """What one server needs: bytes of weights, of the KV cache that the load fills, and of that of one longest request.

    `share` of each GPU's memory is its own. `splits` are the tensor-parallel sizes at which vLLM takes the model, and
    beyond `kv_heads` GPUs each holds a copy of a KV head. `short` says what comes of less KV cache than that.
    """

    weights: int
    kv_cache: int
    one_request: int
    share: float
    splits: Sequence[int]
    kv_heads: int
    short: str = "requests will wait"


@dataclass(frozen=True)
class Fitted:
    """An engine with nothing left open, and why its tensor-parallel size is what it is (None where it was given).

    `tight`: the weights fit, and less KV cache than the load fills.
    """

    engine: Engine
    why: str | None
    tight: bool = False


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is asked of a server: `at_once` requests of `context` tokens, with a `share` of each GPU's memory."""

    context: int
    at_once: int
    share: float = 1.0


def for_load(load: Workload, plans: Sequence[Loadable], config: Config, pairing: str = ALTERNATING) -> Fitted:
    """The workload's engine as it fits a bench of the unquantized model and the plans' checkpoints.

    Each server is thought to have all of a GPU's memory, unless the pairing that was asked for halves it: how they are
    paired then follows from the engine (quantpress_serve.bench.pairing). Raises as `fitted` does.
    """
    share = 1 / 2 if pairing == TOGETHER else 1.0
    asked = Asked(context=load.model_len, at_once=load.most_at_once, share=share)
    return fitted(load.engine, need_of(plans, config, load.engine, asked, largest(plans)))


def with_engine_for(load: Workload, plans: Sequence[Loadable], config: Config, pairing: str) -> Workload:
    """The workload with its engine as `for_load` fits it, which is said. Raises as `fitted` does."""
    found = for_load(load, plans, config, pairing)
    say(found)
    return load.model_copy(update={"engine": found.engine})


def alone(engine: Engine, plan: Loadable, config: Config) -> Fitted:
    """The engine as it fits a server of the plan's checkpoint alone, whose load nobody knows: one long request.

    Raises as `fitted` does.
    """
    asked = Asked(context=engine.max_model_len or positions(config) or _CONTEXT, at_once=1)
    need = need_of([plan], config, engine, asked, plan.checkpoint_bytes)
    short = need.short if engine.max_model_len else "vLLM takes the longest context that fits"
    return fitted(engine, replace(need, short=short))


def largest(plans: Sequence[Loadable]) -> int:
    """Bytes of the weights of the unquantized model or of a plan's checkpoint, whichever has more."""
    return max(max(plan.weight_bytes, plan.checkpoint_bytes) for plan in plans)


def say(found: Fitted) -> None:
    """Says how many GPUs were taken, and why, if there was a choice."""
    if found.why:
        (console.warn if found.tight else console.say)(f"  {found.why}")


def need_of(plans: Sequence[Loadable], config: Config, engine: Engine, asked: Asked, weights: int) -> Need:
    """What a server with so many bytes of weights needs, that has to be split as all of the plans' checkpoints can."""
    element = 1 if engine.kv_cache_dtype.startswith("fp8") else 2
    return Need(
        weights=weights,
        kv_cache=sizes.kv_cache_bytes(config, asked.context, asked.at_once, element) or 0,
        one_request=sizes.kv_cache_bytes(config, asked.context, 1, element) or 0,
        share=asked.share,
        splits=_splits(plans, config),
        kv_heads=_kv_heads(config),
    )


def _splits(plans: Sequence[Loadable], config: Config) -> list[int]:
    of_each = []
    for plan in plans:
        linears = plan.structure.linears
        schemes = {name: scheme for name, scheme in plan.schemes.items() if name in linears}
        of_each.append(set(sizes.tensor_parallel_sizes(config, schemes, linears, _LARGEST)))
    return sorted({1}.union(set.intersection(*of_each)))


def _kv_heads(config: Config) -> int:
    text = text_config(config)
    if sizes.latent_rank(config):
        return 1
    return number_in(text, "num_key_value_heads") or number_in(text, "num_attention_heads") or 1


def fitted(engine: Engine, need: Need, memory: list[int] | None = None) -> Fitted:
    """The engine with as few GPUs as the need fits, where its tensor-parallel size is `auto`: GPUs of this machine, or
    of another one, each with so many bytes of `memory`.

    Raises CapabilityError where not even the weights fit, or the machine has fewer GPUs, or cores, than the engine
    names. By the KV cache nothing is refused: what is known of it is an upper bound (plan.sizes.kv_cache_bytes).
    """
    memory = environment.gpu_memory() if memory is None else memory
    if not memory:
        return _on_a_cpu(engine)
    _require(engine.devices, len(memory), "GPU")
    if engine.tensor_parallel_size != "auto":
        return Fitted(engine, None)
    if "CUDA_VISIBLE_DEVICES" not in os.environ:
        # CUDA counts the fastest first.
        large = [one for one in memory if not environment.is_small(one, max(memory))]
        memory = large if len(large) >= engine.devices else memory
    room = min(memory) * (engine.gpu_memory_utilization or UTILIZATION) * need.share
    here = [size for size in need.splits if size * engine.devices <= len(memory)]
    largest = here[-1]
    filled = max(need.one_request, need.kv_cache / (engine.data_parallel_size or 1))
    for size in here:
        beside = BESIDE if size < largest else 0
        if _on_each(engine, size, need, filled) + beside <= room:
            fewer = here[max(0, here.index(size) - 1)]
            fits = "fit" if size == fewer else "do not fit"
            where = f"{_gpus(fewer * engine.devices, memory)}{_of_which(room)}"
            return Fitted(
                _with(engine, size), f"tensor parallel {size}: {_contents(need, need.kv_cache)} {fits} {where}"
            )
    if _on_each(engine, largest, need, 0) <= room:
        why = f"tensor parallel {largest}: {size_in_words(need.weights)} of weights fit, and less than the "
        why += f"{size_in_words(need.kv_cache)} of KV cache that the load fills; {need.short}"
        return Fitted(_with(engine, largest), why, tight=True)
    raise CapabilityError(
        f"{_contents(need, 0)} do not fit {_gpus(largest * engine.devices, memory)}{_of_which(room)}",
        hint=_what_would(engine, need, room),
    )


def _on_a_cpu(engine: Engine) -> Fitted:
    """Processes share the cores of a CPU, so a model is split over several only where that is asked for."""
    _require(engine.devices, len(os.sched_getaffinity(0)), "core")
    if engine.tensor_parallel_size != "auto":
        return Fitted(engine, None)
    return Fitted(_with(engine, 1), None)


def _require(devices: int, here: int, kind: str) -> None:
    if devices > here:
        raise CapabilityError(
            f"the engine takes {devices} {kind}s (tensor, pipeline and data parallel), and this process may use {here}",
            hint="lower them with --engine tensor_parallel_size=auto, or name another --engine",
        )


def _with(engine: Engine, size: int) -> Engine:
    return engine.model_copy(update={"tensor_parallel_size": size})


def _on_each(engine: Engine, size: int, need: Need, kv_cache: float) -> float:
    """Bytes on each GPU, with so many of KV cache for each copy of the model; with expert parallelism, the copies
    share the experts, which are taken for all of the weights."""
    shared = (engine.data_parallel_size or 1) if engine.enable_expert_parallel else 1
    stages = engine.pipeline_parallel_size
    return need.weights / (size * stages * shared) + kv_cache / (min(size, need.kv_heads) * stages)


def _contents(need: Need, kv_cache: int) -> str:
    return f"{size_in_words(need.weights)} of weights" + (
        f" and {size_in_words(kv_cache)} of KV cache" if kv_cache else ""
    )


def _gpus(number: int, memory: list[int]) -> str:
    return f"{'one GPU' if number == 1 else f'{number} GPUs'} of {min(memory) / 1e9:.0f} GB"


def _of_which(room: float) -> str:
    return f" (this server's share of one: {size_in_words(int(room))}, activations included)"


def _what_would(engine: Engine, need: Need, room: float) -> str:
    """Which number of such GPUs would do."""
    size = next((size for size in need.splits if _on_each(engine, size, need, 0) <= room), None)
    return f"{size * engine.devices} such GPUs would hold them" if size else "take larger GPUs, or fewer bits a weight"
