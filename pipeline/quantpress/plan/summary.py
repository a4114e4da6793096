"""What `quantpress plan` says: layers by scheme, sizes, memory, hardware."""

from __future__ import annotations

from collections import Counter
from math import prod
from typing import Any

from quantpress.plan import servable, sizes
from quantpress.plan.resolve import Plan
from quantpress.recipe.modifiers import Quantizes


def report(plan: Plan, config: dict[str, Any], context: int, concurrency: int) -> dict[str, Any]:
    """The plan as JSON; bytes throughout. `context` is in tokens, `concurrency` in sequences."""
    linears = plan.structure.linears
    parameters = sum(prod(linears[name]) for name in plan.layers)
    quantized = plan.checkpoint_bytes - plan.untouched_bytes
    halved = any(isinstance(m.body, Quantizes) and m.body.kv_cache for m in plan.recipe.modifiers)
    calibration = plan.recipe.calibration
    return {
        "recipe": plan.recipe.name,
        "layers": _layers(plan),
        "bytes": {"before": plan.weight_bytes, "after": plan.checkpoint_bytes},
        "bits_per_weight": round(8 * quantized / parameters, 3) if parameters else None,
        "calibration": {
            "samples": calibration.samples,
            "tokens": calibration.samples * calibration.max_sequence_length,
        }
        if calibration
        else None,
        "memory": {
            "weights": plan.checkpoint_bytes,
            "kv_cache": sizes.kv_cache_bytes(config, context, concurrency, 1 if halved else 2),
            "context": context,
            "concurrency": concurrency,
        },
        "tensor_parallel_sizes": sizes.tensor_parallel_sizes(config, plan.schemes, linears),
        "hardware": servable.table(plan),
        "notes": [*plan.notes, *_too_little_data(plan), *_too_long(config, context)],
        "resolved": plan.recipe.dump(),
    }


def _too_little_data(plan: Plan) -> list[str]:
    calibration = plan.recipe.calibration
    tokens = calibration.samples * calibration.max_sequence_length if calibration else 0
    if not 0 < tokens < plan.largest_input:
        return []
    return [f"{tokens} calibration tokens are fewer than the {plan.largest_input} input features of the widest layer"]


def _too_long(config: dict[str, Any], context: int) -> list[str]:
    longest = sizes.positions(config)
    return [f"the model was made for {longest} tokens, fewer than --context {context}"] if 0 < longest < context else []


def _layers(plan: Plan) -> dict[str, int]:
    labels = Counter(f"{plan.labels[name]}, {plan.scales_of(name)}" for name in plan.layers)
    left = len(plan.structure.linears) - len(plan.layers)
    return dict(labels) | ({"16 bits": left} if left else {})


def text(found: dict[str, Any]) -> str:
    """The report for people."""
    before, after = found["bytes"]["before"], found["bytes"]["after"]
    memory, calibration = found["memory"], found["calibration"]
    lines = [
        f"recipe       {found['recipe']}",
        *_listed("layers", [f"{count} x {name}" for name, count in found["layers"].items()]),
        f"size         {_gb(before)} -> {_gb(after)} ({after / before:.0%})",
        f"weights      {found['bits_per_weight'] or 16} bits each where quantized, scales included",
        f"calibration  {calibration['tokens']} tokens" if calibration else "calibration  none needed",
        f"memory       {_gb(memory['weights'])} weights + {_gb(memory['kv_cache'])} KV cache at most "
        f"({memory['concurrency']} sequences of {memory['context']} tokens)",
        f"GPUs         tensor parallel over {', '.join(map(str, found['tensor_parallel_sizes'])) or 'no number'}",
        *_listed("hardware", [_target(name, row) for name, row in found["hardware"].items()]),
        *_listed("asked vLLM", _said(found["vllm"]) if "vllm" in found else []),
        *_listed("notes", found["notes"]),
    ]
    return "\n".join(lines)


def _said(vllm: dict[str, Any]) -> list[str]:
    """For each preset the classes that vLLM picks, and where."""
    lines = []
    for preset, row in vllm["schemes"].items():
        where: dict[str, list[str]] = {}
        for target, said in row.items():
            where.setdefault(said.partition(":")[0], []).append(target)
        said = "; ".join(f"{name} on {', '.join(targets)}" for name, targets in where.items())
        lines.append(f"{vllm['version']}: {preset}: {said}")
    return lines or [f"{vllm['version']}: no preset to ask about"]


def _listed(title: str, lines: list[str]) -> list[str]:
    return [f"{title if index == 0 else '':12} {line}" for index, line in enumerate(lines)]


def _target(name: str, row: dict[str, Any]) -> str:
    kernels = row["kernels"]
    why = kernels.get("why not") or "; ".join(f"{kind}: {kernel}" for kind, kernel in kernels.items())
    return f"{name:10} {row['support']:8}  {why}"


def _gb(count: int | None) -> str:
    if count is None:
        return "unknown"
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
