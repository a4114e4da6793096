"""Which plans need not hold the model in memory, and how much memory and how many processes such a plan takes.

Plain rounding looks at one layer at a time (NVFP4 at those that share a scale), so it can go through the files piece by
piece: with llmcompressor's own code for that, model_free, which gives the same bytes as its oneshot (a test compares
them for every shipped recipe without data).
"""

from __future__ import annotations

import math

from quantpress.errors import CapabilityError
from quantpress.model import headers
from quantpress.model.config import dtype_of
from quantpress.model.headers import Tensor
from quantpress.model.source import Model
from quantpress.model.structure import Structure, described_tensors, structure_of
from quantpress.plan import needs
from quantpress.plan.resolve import Plan
from quantpress.quantize import account
from quantpress.recipe.modifiers import Group, Rtn
from quantpress.runtime import free_memory

# Bytes of the model that one process takes at a time, and writes into a file of its own, unless a layer is larger.
PIECE = 1_000_000_000
# What llmcompressor and its libraries take, the processes sharing it, with quantpress itself.
LIBRARIES = 900_000_000
# What is in memory while a layer is rounded, in multiples of its weight: 2.3 to 5.5 by compressed-tensors' own profiler
# (TensorProfiler) for the shipped recipes, up to 8.1 where an observer searches scales.
_WORK = 8
_DTYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}


def is_streamed(plan: Plan, model: Model) -> bool:
    """Whether the plan's checkpoint is made piece by piece."""
    return held_because(plan, model) is None


def held_because(plan: Plan, model: Model) -> str | None:
    """Why the whole model has to be held in memory; None where it is taken piece by piece.

    Nothing of the machine decides it: so the same inputs give the same files. May ask for the model's structure, which
    was asked for when the plan was made (quantpress.model.structure).
    """
    groups = _plain_groups(plan)
    if groups is None:
        return "the recipe does more than to round weights without data"
    if any(_depends_on_threads(group) for group in groups):
        return "the sums over whole tensors that its observer compares depend on the number of threads"
    tensors, structure = _tensors(model)
    if any(len(tensors[name].shape) == 3 for name in structure.fused_experts if name in tensors):
        return "experts that share a tensor are taken apart in memory"
    if structure.renamed:
        return "transformers saves its tensors under other names"
    if plan.structure.tied and f"{plan.structure.stored_name(plan.structure.tied)}.weight" not in tensors:
        return "the embedding is stored as the output head alone"
    return _unfit_layers(plan, tensors, structure, _DTYPES[dtype_of(model.config)])


def _plain_groups(plan: Plan) -> list[Group] | None:
    """The groups of a recipe that does nothing but round weights; None of any other."""
    bodies = [modifier.body for modifier in plan.recipe.modifiers]
    plain = [body for body in bodies if isinstance(body, Rtn) and body.kv_cache is None]
    if plan.recipe.calibration is not None or len(plain) < len(bodies):
        return None
    return [group for body in plain for group in body.all_groups]


def _depends_on_threads(group: Group) -> bool:
    observer = group.weights.observer if group.weights else group.weight_observer
    return group.weight_strategy == "tensor" and "mse" in (observer or "")


def _unfit_layers(plan: Plan, tensors: dict[str, Tensor], structure: Structure, dtype: str) -> str | None:
    known, linked = plan.structure, set(structure.linked_otherwise)
    for layer in plan.layers:
        stored = known.stored_name(layer)
        weight = tensors.get(f"{stored}.weight")
        if layer not in known.linears or weight is None or weight.shape != known.linears[layer]:
            return f"{layer} has no tensor of its own in the files, or is an embedding"
        if weight.dtype != dtype:
            return f"{layer} is stored as {weight.dtype}, and loaded as {dtype}"
        if plan.schemes[layer].has_tensor_scale and stored in linked:
            return f"{layer} shares a scale that llmcompressor finds in a model only"
    return None


def left_out(plan: Plan, model: Model) -> list[str]:
    """The tensors of the files that a checkpoint is not to have from its pieces: those that transformers never loads,
    which get a file of their own (quantpress.quantize.account), and an output head that is stored as the embedding."""
    tensors, structure = _tensors(model)
    heads = account.tied_heads(tensors, plan)
    return [*structure.not_loaded, *(name for name in heads if account.is_the_embedding(name, plan, model.path))]


def peak_bytes(plan: Plan, model: Model, processes: int = 1) -> int:
    """The memory that a streamed plan takes at most, in bytes, with so many processes: of one it does not grow with the
    model, only with its largest layer."""
    tensors, _ = _tensors(model)
    each = {name: tensor.nbytes for name, tensor in tensors.items()}
    piece = max(min(PIECE, sum(each.values())), max(each.values()))
    layer = max(each[f"{plan.structure.stored_name(name)}.weight"] for name in plan.layers)
    return LIBRARIES + processes * (piece + _WORK * layer)


def processes(plan: Plan, model: Model, free: int) -> int:
    """How many processes `free` bytes allow, at least one: together they stay within twice the largest of the model's
    files and 1.5 GB."""
    largest = max(path.stat().st_size for path in headers.weight_files(model.path))
    one = peak_bytes(plan, model)
    return 1 + max(0, min(free, 2 * largest + 1_500_000_000) - one) // (one - LIBRARIES)


def stay_on_disk(plan: Plan, model: Model, offload: str) -> bool:
    """Whether the weights of a plan that takes the whole model stay on the disk meanwhile (free_memory.stay_on_disk).

    Raises CapabilityError if not even one process fits into the memory, or not what is held of the model.
    """
    if why := held_because(plan, model):
        if offload == "never":
            free_memory.require_for_model(plan.weight_bytes, why)
            return False
        whole, layer_by_layer = (of(plan, model.config) for of in (needs.quantizing_bytes, needs.offloaded_bytes))
        return free_memory.stay_on_disk(whole, layer_by_layer, offload)
    free, needed = free_memory.available(), peak_bytes(plan, model)
    if free < needed:
        raise CapabilityError(
            f"quantizing {model.name} piece by piece takes {needed / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are "
            "free",
            hint="end other programs, or take a machine with more memory",
        )
    return False


def disk_bytes(plan: Plan, model: Model, on_disk: bool = False) -> int:
    """What the checkpoint takes on the disk while it is made: with a margin for what is written beside it, and with the
    weights that change where those stay `on_disk`."""
    if is_streamed(plan, model):
        return math.ceil(1.05 * plan.checkpoint_bytes)
    return math.ceil((2.6 if on_disk else 1.5) * plan.weight_bytes)


def _tensors(model: Model) -> tuple[dict[str, Tensor], Structure]:
    """Those of the files, or those that the config describes where there are no files yet."""
    files = model.headers()
    structure = structure_of(model.path, model.config, files, model.trust_remote_code)
    return files or described_tensors(model.config, structure), structure
