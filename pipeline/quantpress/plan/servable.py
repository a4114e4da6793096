"""What a plan needs of the hardware that serves it."""

from __future__ import annotations

from quantpress.errors import CapabilityError
from quantpress.plan import fused, hardware
from quantpress.plan.fused import expert_sets, fused_sets, unserved
from quantpress.plan.resolve import Plan
from quantpress.recipe.modifiers import Quantizes
from quantpress.runtime import cpu
from quantpress.runtime.records import Record

_INT4_STEP = 32  # features; the CPU's kernel for 4-bit weights takes multiples
# Of a CPU, to multiply quantized experts (vLLM 0.32, experts/cpu_moe.py: _is_amx_tile_supported).
_EXPERTS_NEED = "amx_tile"
# Marlin's group sizes (vLLM 0.32, marlin_utils.MARLIN_SUPPORTED_GROUP_SIZES); Machete takes fewer.
_MARLIN_GROUPS = (None, 32, 64, 128)
_GROUPED = ("W4A16", "W4A16 asymmetric", "W8A16", "W4A8")


def kinds_of(plan: Plan) -> list[str]:
    """The rows of hardware.TABLE that the plan needs."""
    embeddings = plan.structure.embeddings
    kinds = {
        hardware.EMBEDDINGS if name in embeddings else hardware.kind_of(scheme) for name, scheme in plan.schemes.items()
    }
    for modifier in plan.recipe.modifiers:
        body = modifier.body
        if isinstance(body, Quantizes) and body.kv_cache:
            kinds.add(hardware.KV_CACHE)
        if body.rotates_online:
            kinds.add(hardware.ROTATIONS)
    return sorted(kinds)


def require_served(plan: Plan, target: str) -> None:
    """Raises CapabilityError, saying what can be served there, unless `target` can serve the plan's checkpoint."""
    if reason := unserved(plan.architecture):
        raise CapabilityError(reason, hint="take a model whose architecture it serves")
    if reason := _unserved_embedding(plan):
        raise CapabilityError(reason, hint="add it to `ignore`")
    hardware.require(kinds_of(plan), target)
    if odd := _odd_for_blocks(plan):
        raise CapabilityError(
            f"{odd}: vLLM refuses to load it fused with the layers beside it",
            hint="add those layers to `ignore`, or use fp8-dynamic, which has no blocks",
        )
    if target not in hardware.GPUS and expert_sets(plan.layers) and _EXPERTS_NEED not in cpu.features(target):
        raise CapabilityError(
            f"vLLM's CPU kernels for quantized experts need AMX, which {target} ({cpu.described(target)}) lacks",
            hint='add "re:.*experts" to `ignore`: experts in 16 bits are served on every CPU',
        )
    if target not in hardware.GPUS and (odd := _odd_for_int4(plan)):
        raise CapabilityError(
            f"{odd}: the CPU's kernel for 4-bit weights takes multiples of {_INT4_STEP} only",
            hint="add those layers to `ignore`, or use a scheme without packed weights (W8A8)",
        )


def _unserved_embedding(plan: Plan) -> str | None:
    """Why vLLM does not load one of the plan's embeddings, whatever it runs on."""
    for name in plan.structure.embeddings.keys() & plan.schemes.keys():
        reason = fused.unserved_embedding(name, plan.schemes[name], plan.targets[name], plan.structure, plan.packing)
        if reason:
            return f"{name} is quantized: {reason}"
    return None


def _odd_for_blocks(plan: Plan) -> str | None:
    """The first part of a fused layer, but the last, whose rows end within a block (vLLM: validate_fp8_block_shape)."""
    blocks = {name: scheme.block for name, scheme in plan.schemes.items() if scheme.block}
    for together in fused_sets(plan.packing, plan.structure):
        for name in together[:-1] if together[0] in blocks else ():
            outputs, rows = plan.structure.linears[name][0], blocks[name][0]
            if outputs % rows:
                return f"{name} has {outputs} output features, which blocks of {rows} rows do not divide"
    return None


def _odd_group(plan: Plan) -> int | None:
    """A group size that Marlin and Machete do not have."""
    sizes = {s.group_size for s in plan.schemes.values() if hardware.kind_of(s) in _GROUPED}
    return next((size for size in sorted(sizes, key=str) if size not in _MARLIN_GROUPS), None)


def _odd_for_int4(plan: Plan) -> str | None:
    """The first layer, fused as vLLM fuses it, with a width that the kernel cannot take."""
    shapes = {
        name: plan.structure.linears[name]
        for name, scheme in plan.schemes.items()
        if name in plan.structure.linears and hardware.kind_of(scheme) in ("W4A16", "W4A16 asymmetric", "W4A8")
    }
    sets = [together for together in fused_sets(plan.packing, plan.structure) if together[0] in shapes]
    single = [[name] for name in shapes.keys() - {name for together in sets for name in together}]
    for together in sorted(sets + single):
        outputs, inputs = sum(shapes[name][0] for name in together), shapes[together[0]][1]
        if outputs % _INT4_STEP or inputs % _INT4_STEP:
            return f"{' + '.join(together)} has {inputs} input and {outputs} output features"
    return None


def inexact(plan: Plan, target: str) -> str | None:
    """Why what `target` computes is not what the checkpoint says, and what is exact there; None if it is."""
    for kind in kinds_of(plan):
        found = hardware.cell(kind, target)
        if found.support == "inexact":
            exact = [name for name in hardware.TABLE if hardware.cell(name, target).support in ("full", "fallback")]
            where = f"{target} ({cpu.described(target)})"
            return f"{kind} is inexact on {where}: {found.kernel}; exact there: {', '.join(exact)}"
    return None


class Serves(Record):
    """Whether a target serves a plan, and with which kernel each kind of layer; or, as "why not", why it does not."""

    support: hardware.Support
    kernels: dict[str, str]


def table(plan: Plan) -> dict[str, Serves]:
    """What each target makes of the plan."""
    kinds = kinds_of(plan)
    found = {}
    for target in hardware.TARGETS:
        cells = {kind: hardware.cell(kind, target) for kind in kinds}
        worst = hardware.worst(cell.support for cell in cells.values())
        kernels = {kind: cell.kernel for kind, cell in cells.items()}
        if target in hardware.GPUS and worst == "full" and (size := _odd_group(plan)):
            worst = "fallback"
            kernels["groups"] = f"Marlin has no groups of {size}: what else vLLM has installed, or nothing"
        try:
            require_served(plan, target)
        except CapabilityError as error:
            worst = "no"
            kernels["why not"] = error.message
        found[target] = Serves(support=worst, kernels=kernels)
    return found
