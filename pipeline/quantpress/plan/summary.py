"""What `quantpress plan` says: layers by scheme, sizes, memory, hardware."""

from __future__ import annotations

from collections import Counter
from math import prod
from typing import Any

from quantpress.artifact.manifest import CalibrationImages
from quantpress.model.config import Config, positions
from quantpress.plan import servable, sizes
from quantpress.plan.resolve import Plan
from quantpress.recipe.modifiers import Quantizes
from quantpress.recipe.recipe import OWN_DATASET
from quantpress.runtime.records import Record


class Sizes(Record):
    """Bytes of the weights."""

    before: int
    after: int


class Data(Record):
    """How much a recipe calibrates on: `samples` sequences, and what of them are images where that was asked."""

    samples: int
    tokens: int
    images: CalibrationImages | None = None


class Memory(Record):
    """Bytes that serving takes: of the weights, and of the KV cache at most (None where the config does not say).

    `context` is in tokens, `concurrency` in sequences.
    """

    weights: int
    kv_cache: int | None
    context: int
    concurrency: int


class Asked(Record):
    """What an installed vLLM says of each preset, by target: the class that takes it, or "no: ..." with its reason.

    `model` is what it says of the model's architecture.
    """

    version: str
    schemes: dict[str, dict[str, str]]
    model: str


class Summary(Record):
    """Everything that is known of a plan before a weight is read.

    `layers` counts layers by scheme, `bits_per_weight` is that of the quantized ones with their scales (None without
    any), `hardware` says what each target makes of it, `resolved` is the recipe with nothing left open.
    """

    recipe: str
    layers: dict[str, int]
    bytes: Sizes
    bits_per_weight: float | None
    calibration: Data | None
    memory: Memory
    tensor_parallel_sizes: list[int]
    hardware: dict[str, servable.Serves]
    notes: list[str]
    resolved: dict[str, Any]


def summary_of(plan: Plan, config: Config, context: int, concurrency: int, data: Data | None = None) -> Summary:
    """The summary of a plan; `context` is in tokens, `concurrency` in sequences.

    `data` is what the calibration data come to where the recipe alone does not tell: images.
    """
    linears = plan.structure.linears
    parameters = sum(prod(plan.structure.shapes[name]) for name in plan.layers)
    quantized = plan.checkpoint_bytes - plan.untouched_bytes
    data = data or _nominal(plan)
    return Summary(
        recipe=plan.recipe.name,
        layers=_layers(plan),
        bytes=Sizes(before=plan.weight_bytes, after=plan.checkpoint_bytes),
        bits_per_weight=round(8 * quantized / parameters, 3) if parameters else None,
        calibration=data,
        memory=memory_of(plan, config, context, concurrency),
        tensor_parallel_sizes=sizes.tensor_parallel_sizes(
            config, {name: scheme for name, scheme in plan.schemes.items() if name in linears}, linears
        ),
        hardware=servable.table(plan),
        notes=[*plan.notes, *_own_chats(plan), *_too_little_data(plan, data), *_too_long(config, context)],
        resolved=plan.recipe.dump(),
    )


def memory_of(plan: Plan, config: Config, context: int, concurrency: int) -> Memory:
    """What serving the plan's checkpoint takes; `context` is in tokens, `concurrency` in sequences."""
    halved = any(isinstance(m.body, Quantizes) and m.body.kv_cache for m in plan.recipe.modifiers)
    return Memory(
        weights=plan.checkpoint_bytes,
        kv_cache=sizes.kv_cache_bytes(config, context, concurrency, 1 if halved else 2),
        context=context,
        concurrency=concurrency,
    )


def _nominal(plan: Plan) -> Data | None:
    """Sequences of exactly the length that the recipe says, which texts are packed into."""
    calibration = plan.recipe.calibration
    if calibration is None:
        return None
    return Data(samples=calibration.samples, tokens=calibration.samples * calibration.max_sequence_length)


def _too_little_data(plan: Plan, data: Data | None) -> list[str]:
    tokens = data.tokens if data else 0
    if not 0 < tokens < plan.largest_input:
        return []
    return [f"{tokens} calibration tokens are fewer than the {plan.largest_input} input features of the widest layer"]


def _own_chats(plan: Plan) -> list[str]:
    calibration = plan.recipe.calibration
    if calibration is None or all(one.dataset != OWN_DATASET or one.revision for one in calibration.sources):
        return []
    return [f"calibration.dataset {OWN_DATASET}: the model writes its chats with vLLM before it is quantized, once"]


def _too_long(config: Config, context: int) -> list[str]:
    longest = positions(config)
    return [f"the model was made for {longest} tokens, fewer than --context {context}"] if 0 < longest < context else []


def _layers(plan: Plan) -> dict[str, int]:
    labels = Counter(f"{plan.labels[name]}, {plan.scales_of(name)}" for name in plan.layers)
    left = len(plan.structure.linears.keys() - set(plan.layers))
    return dict(labels) | ({"16 bits": left} if left else {})


def text(summary: Summary, asked: Asked | None, gates: list[str], needs: list[str]) -> str:
    """The summary for people; `gates` are lines about what gates need, `needs` about what the stages do."""
    before, after, memory = summary.bytes.before, summary.bytes.after, summary.memory
    lines = [
        f"recipe       {summary.recipe}",
        *_listed("layers", [f"{count} x {name}" for name, count in summary.layers.items()]),
        f"size         {size_in_words(before)} -> {size_in_words(after)} ({after / before:.0%})",
        f"weights      {summary.bits_per_weight or 16} bits each where quantized, scales included",
        f"calibration  {_amount(summary.calibration)}",
        f"memory       {size_in_words(memory.weights)} weights + {size_in_words(memory.kv_cache)} KV cache at most "
        f"({memory.concurrency} sequences of {memory.context} tokens)",
        f"GPUs         tensor parallel over {', '.join(map(str, summary.tensor_parallel_sizes)) or 'no number'}",
        *_listed("needs", needs),
        *_listed("hardware", [_target(name, row) for name, row in summary.hardware.items()]),
        *_listed("asked vLLM", _said(asked) if asked else []),
        *_listed("gates", gates),
        *_listed("notes", summary.notes),
    ]
    return "\n".join(lines)


def _said(asked: Asked) -> list[str]:
    """For each preset the classes that vLLM picks, and where."""
    lines = [f"{asked.version}: {asked.model}"]
    for preset, row in asked.schemes.items():
        where: dict[str, list[str]] = {}
        for target, said in row.items():
            where.setdefault(said.partition(":")[0], []).append(target)
        said = "; ".join(f"{name} on {', '.join(targets)}" for name, targets in where.items())
        lines.append(f"{asked.version}: {preset}: {said}")
    return lines


def _listed(title: str, lines: list[str]) -> list[str]:
    return [f"{title if index == 0 else '':12} {line}" for index, line in enumerate(lines)]


def _amount(data: Data | None) -> str:
    if data is None:
        return "none needed"
    seen = data.images
    if seen is None:
        return f"{data.tokens} tokens"
    passed_over = f"; {seen.too_long} longer ones are passed over" if seen.too_long else ""
    return (
        f"{data.tokens} tokens, {seen.tokens} of them of {seen.images} images in {seen.conversations} conversations"
        f"{passed_over}"
    )


def _target(name: str, row: servable.Serves) -> str:
    kernels = row.kernels
    why = kernels.get("why not") or "; ".join(f"{kind}: {kernel}" for kind, kernel in kernels.items())
    return f"{name:10} {row.support:8}  {why}"


def size_in_words(count: int | None) -> str:
    """Bytes as GB or MB, for people."""
    if count is None:
        return "unknown"
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
