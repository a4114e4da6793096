"""Which shipped recipe to try first, for a model, a target and a goal; every claim with its source."""

from __future__ import annotations

from pathlib import Path

from quantpress.errors import QuantpressError
from quantpress.language import shipped
from quantpress.model.source import Model
from quantpress.plan import hardware, measured, servable
from quantpress.plan.measured import Speed
from quantpress.plan.resolve import Plan, plan_of
from quantpress.plan.servable import require_served
from quantpress.recipe.loading import load_recipe
from quantpress.runtime.records import Record

_TABLE = "table of kernels, read from vLLM 0.32.0's source"
_PLAN = "this model's plan"
_MEASURED = "docs/explanation/measurements.md"
_CPU = f"{_MEASURED}, a 2-core CPU"
_RULE = "rule of thumb, not measured here: run both and compare"
_PAPER = "published: Kurtic et al., ACL 2025, Llama 3.1 in vLLM, https://arxiv.org/abs/2411.02355"
_VLLM_FP8 = "published: https://docs.vllm.ai/en/v0.32.0/features/quantization/llm_compressor/fp8/"
_SCHEMES = "published: https://docs.vllm.ai/projects/llm-compressor/en/0.11.0/steps/choosing-scheme/"
_FORMS = "published: https://docs.vllm.ai/projects/llm-compressor/en/0.10.0/guides/compression_schemes/"

# Under load on GPUs, by these sources: the best first. What they do not compare comes after them.
_UNDER_LOAD = (("FP8 dynamic",), ("FP8 static", "FP8 block"), ("W8A8",))
_PUBLISHED_UNDER_LOAD = {
    "FP8 dynamic": [
        ("8-bit weights and activations excel under load on high-end GPUs, from mid-size models on", _PAPER),
        ("up to 1.6 times the throughput of 16 bits", _VLLM_FP8),
    ],
    "FP8 static": [("channel-wise weights with dynamic activations perform best among FP8", _FORMS)],
    "FP8 block": [("FP8_DYNAMIC, not blocks, is recommended for server and batch inference", _FORMS)],
    "W8A8": [
        ("8-bit weights and activations excel under load on high-end GPUs, from mid-size models on", _PAPER),
        ("for high throughput on older GPUs; FP8 on modern ones", _SCHEMES),
    ],
    "W4A16": [("most cost-efficient under load on mid-tier GPUs; 8 bits excel on high-end ones", _PAPER)],
    "W4A16 asymmetric": [
        ("most cost-efficient under load on mid-tier GPUs; 8 bits excel on high-end ones", _PAPER),
    ],
    "W4AFP8": [("no published measurement known that puts it before FP8 under load", _RULE)],
}


class Suggestion(Record):
    """A recipe, whether it can be made and served, what it is ranked by (least first), and claims with sources."""

    recipe: str
    possible: bool
    rank: list[float]
    reasons: list[tuple[str, str]]


def suggestions(model: Model, target: str, goal: str, out: Path) -> list[Suggestion]:
    """The shipped recipes, best first: what was measured of this model on such a machine (below `out`) before what was
    published. What was measured as slower than the unquantized model comes after both, and what cannot be made or
    served last, with the reason."""
    known = {}
    if goal in ("latency", "throughput"):
        known = measured.speeds(out / model.name, target, under_load=goal == "throughput")
    rows = [_suggestion(name, model, target, goal, known.get(name)) for name in shipped.names("recipes")]
    return sorted(rows, key=lambda row: (not row.possible, row.rank, row.recipe))


def _suggestion(name: str, model: Model, target: str, goal: str, speed: Speed | None) -> Suggestion:
    try:
        plan = plan_of(load_recipe(name), model)
        require_served(plan, target)
    except QuantpressError as error:
        return Suggestion(recipe=name, possible=False, rank=[], reasons=[(error.message, "plan and table")])
    support = servable.table(plan)[target].support
    rank, reasons = _GOALS[goal](plan, target)
    kernels = "; ".join(hardware.cell(kind, target).kernel for kind in servable.kinds_of(plan))
    reasons = [*_claims(speed), (f"{support}: {kernels}", _TABLE), *reasons]
    # What computes something else than it says is fast for nothing; what runs as something else is worth less than its
    # name says, unless it was measured.
    rank = [support == "inexact", *_measured_rank(speed), hardware.SUPPORT.index(support), *rank]
    return Suggestion(recipe=name, possible=True, rank=rank, reasons=reasons)


def _measured_rank(speed: Speed | None) -> list[float]:
    if speed is None:
        return [1, 0]
    return [2 if speed.slower else 0, -speed.speedup]


def _claims(speed: Speed | None) -> list[tuple[str, str]]:
    return [(speed.claim, speed.file)] if speed else []


Judged = tuple[list[float], list[tuple[str, str]]]


def _activation_bits(plan: Plan) -> int:
    return max((scheme.activation_bits for scheme in plan.schemes.values()), default=16)


def _weight_bits(plan: Plan) -> int:
    return max((scheme.weight_bits for scheme in plan.schemes.values()), default=16)


def _static(plan: Plan) -> bool:
    return any(scheme.activations == "static" for scheme in plan.schemes.values())


def _size(plan: Plan) -> float:
    return plan.checkpoint_bytes / plan.weight_bytes


def _kinds(plan: Plan) -> list[str]:
    """The kinds of the weights' schemes, as the table of hardware calls them."""
    return [hardware.kind_of(scheme) for scheme in plan.schemes.values()]


def _latency(plan: Plan, target: str) -> Judged:
    if target not in hardware.GPUS:
        return _on_cpu(plan)
    reasons = [
        (f"{_size(plan):.0%} of the bytes to read for each token", _PLAN),
        ("with few requests, reading weights decides", _RULE),
    ]
    kinds = set(_kinds(plan))
    published = bool(kinds) and kinds <= {"W4A16", "W4A16 asymmetric"}
    if published:
        reasons.insert(
            0, ("4-bit weights with 16-bit activations are most cost-efficient for synchronous requests", _PAPER)
        )
    return [not published, _size(plan), *_care(plan)], reasons


def _throughput(plan: Plan, target: str) -> Judged:
    if target not in hardware.GPUS:
        return _on_cpu(plan)
    bits = _activation_bits(plan)
    kinds = sorted(set(_kinds(plan)))
    reasons = [claim for kind in kinds for claim in _PUBLISHED_UNDER_LOAD.get(kind, [])]
    reasons += [(f"matrix products in {bits} bits", _TABLE), (f"{_size(plan):.0%} of the model's bytes", _PLAN)]
    place = max(map(_place_under_load, kinds), default=len(_UNDER_LOAD))
    return [place, bits, _static(plan), round(_size(plan), 2), *_care(plan)], reasons


def _place_under_load(kind: str) -> int:
    return next((place for place, kinds in enumerate(_UNDER_LOAD) if kind in kinds), len(_UNDER_LOAD))


def _on_cpu(plan: Plan) -> Judged:
    if _activation_bits(plan) == 8 and _weight_bits(plan) == 8:
        return [0, *_care(plan)], [("W8A8 ran at 1.44 of bf16's speed under load, in the shapes of a 1B model", _CPU)]
    if _weight_bits(plan) == 4:
        return [2, *_care(plan)], [("4-bit weights ran at 0.56 to 0.73 of bf16's speed", _CPU)]
    return [1, *_care(plan)], [("no faster than bf16 is to be expected", _RULE)]


def _memory(plan: Plan, target: str) -> Judged:
    return [round(_size(plan), 2), *_care(plan)], [(f"{_size(plan):.0%} of the model's bytes", _PLAN)]


def _accuracy(plan: Plan, target: str) -> Judged:
    weights, activations = _weight_bits(plan), _activation_bits(plan)
    static = _static(plan)
    coarse = any(scheme.strategy == "tensor" for scheme in plan.schemes.values())
    reasons = [(f"{weights}-bit weights and {activations}-bit activations lose less than fewer bits", _RULE)]
    if static:
        reasons.append(("fixed activation scales lost more than dynamic ones", f"{_MEASURED}, SmolLM2-135M"))
    return [-weights, static or coarse, -activations, *_care(plan)], reasons


def _care(plan: Plan) -> list[float]:
    """Among equals: calibrated rounding before plain, and the finer of two grids."""
    careful = any(modifier.name in ("gptq", "awq") for modifier in plan.recipe.modifiers)
    return [0 if careful else 1, plan.group_size or 0]


_GOALS = {"latency": _latency, "throughput": _throughput, "memory": _memory, "accuracy": _accuracy}


def text(rows: list[Suggestion], target: str, goal: str) -> str:
    """The ranking for people."""
    lines = [f"for {goal} on {target}, best first:"]
    possible = [row for row in rows if row.possible]
    for place, row in enumerate(possible, 1):
        lines.append(f"{place:2}. {row.recipe}")
        lines += [f"      {claim} ({source})" for claim, source in row.reasons]
    lines += [f" -  {row.recipe}: {row.reasons[0][0]}" for row in rows if not row.possible]
    return "\n".join(lines)
