"""What each stage will need of the machine: memory at its peak, disk, and work. Counted from the plan alone.

The constants were measured: docs/explanation/measurements.md, "Said beforehand", has the runs.
"""

from __future__ import annotations

from math import prod

from quantpress.model.config import Config, number_in, text_config
from quantpress.plan.arithmetic import stored_dtype
from quantpress.plan.resolve import Plan
from quantpress.recipe.modifiers import Awq, Gptq, Modifier
from quantpress.runtime.records import Record

# Bytes that a process takes with its libraries: torch and transformers, with llmcompressor or lm-eval.
_LIBRARIES = 600_000_000
# Of the checkpoint, what lies beside the weights that it replaces: llmcompressor takes layer by layer.
_REPLACED = 0.7
# Of GPTQ, matrices as large as the largest Hessian: itself, its inverse, and a copy to factor.
_HESSIANS = 3
_FLOAT32 = 4
# Tokens of a long request of the shipped suites, and the sequences of a batch.
_REQUEST, _BATCH = 128, 16


class Work(Record):
    """What a stage computes: floating-point operations in the type of the model's products and in float32, columns that
    GPTQ corrects one after the other, and numbers that are read, rounded and written."""

    products: float = 0.0
    float32: float = 0.0
    columns: int = 0
    weights: int = 0


def quantizing_bytes(plan: Plan, config: Config) -> int:
    """Memory of the quantize stage at its peak where all weights are held, and the checkpoint's come
    beside them."""
    held = _LIBRARIES + plan.weight_bytes + int(_REPLACED * plan.checkpoint_bytes)
    return held + _calibrating_bytes(plan, config)


def offloaded_bytes(plan: Plan, config: Config) -> int:
    """The same where the weights stay on the disk: of the layers one at a time is held, and what becomes of it."""
    text = text_config(config)
    layers = number_in(text, "num_hidden_layers") or 1
    embedding = number_in(text, "vocab_size") * number_in(text, "hidden_size") * _stored_bytes(config)
    return _LIBRARIES + max(2 * plan.weight_bytes // layers, embedding) + _calibrating_bytes(plan, config)


def _calibrating_bytes(plan: Plan, config: Config) -> int:
    """What calibration holds: every sequence between two layers, a batch inside of one, and GPTQ's Hessians."""
    calibration = plan.recipe.calibration
    if calibration is None:  # then GPTQ has no Hessians either
        return 0
    text = text_config(config)
    hidden, inner = number_in(text, "hidden_size"), plan.largest_input
    tokens = calibration.samples * calibration.max_sequence_length
    batch = calibration.batch_size * calibration.max_sequence_length
    between = 2 * tokens * hidden * _stored_bytes(config)
    inside = batch * (6 * hidden + 4 * inner) * _FLOAT32
    hessians = _HESSIANS * plan.largest_input**2 * _FLOAT32 if any(map(_corrects, plan.recipe.modifiers)) else 0
    return between + inside + hessians


def scoring_bytes(plan: Plan, config: Config, float32: bool) -> int:
    """Memory of the evaluate stage at its peak, by transformers: the checkpoint, the weights that it is unpacked to,
    and the logits of a batch, twice."""
    weights = plan.parameters * (_FLOAT32 if float32 else _stored_bytes(config))
    logits = 2 * _BATCH * _REQUEST * number_in(text_config(config), "vocab_size") * _FLOAT32
    return _LIBRARIES + weights + plan.checkpoint_bytes + logits


def scoring_work(plan: Plan, tokens: int) -> Work:
    """What is computed to score so many tokens of requests once."""
    return Work(products=2.0 * tokens * plan.parameters, weights=plan.parameters)


def quantizing_work(plan: Plan) -> Work:
    """What is computed to make the checkpoint."""
    shapes = plan.structure.linears
    calibration = plan.recipe.calibration
    if calibration is None:
        return Work(weights=plan.parameters)
    tokens = calibration.samples * calibration.max_sequence_length
    parameters = sum(prod(shape) for name, shape in shapes.items() if name != "lm_head")
    products = 2.0 * tokens * parameters * _passes(plan.recipe.modifiers)
    if not any(map(_corrects, plan.recipe.modifiers)):
        return Work(products=products, weights=plan.parameters)
    corrected = [shapes[name] for name in plan.layers if name in shapes]
    # The Hessian of the inputs, its inverse by two Cholesky factorizations, and the corrections of the columns.
    float32 = sum(2.0 * tokens * n**2 + 4 / 3 * n**3 + rows * n**2 for rows, n in corrected)
    return Work(products=products, float32=float32, columns=sum(n for _, n in corrected), weights=plan.parameters)


def _stored_bytes(config: Config) -> int:
    """Of one number, as the model is stored; two where its config does not say."""
    return _FLOAT32 if stored_dtype(config) == "float32" else 2


def _passes(modifiers: list[Modifier]) -> float:
    """How often the calibration data go through the layers: to look at them and to go on, and for each scale that AWQ
    tries through half of them."""
    return 2 + sum(0.5 * modifier.body.n_grid for modifier in modifiers if isinstance(modifier.body, Awq))


def _corrects(modifier: Modifier) -> bool:
    return isinstance(modifier.body, Gptq)
