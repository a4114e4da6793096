"""Which shipped recipe to try first, for a model, a target and a goal; every claim with its source."""

from __future__ import annotations

from quantpress.errors import QuantpressError
from quantpress.language import shipped
from quantpress.model.source import Model
from quantpress.plan import hardware, servable
from quantpress.plan.resolve import Plan, plan_of
from quantpress.plan.servable import require_served
from quantpress.recipe.loading import load_recipe
from quantpress.runtime.records import Record

_TABLE = "table of kernels, read from vLLM 0.32.0's source"
_PLAN = "this model's plan"
_MEASURED = "docs/explanation/measurements.md"
_CPU = f"{_MEASURED}, a 2-core CPU"
_RULE = "rule of thumb, not measured here: run both and compare"


class Suggestion(Record):
    """A recipe, whether it can be made and served, what it is ranked by (least first), and claims with sources."""

    recipe: str
    possible: bool
    rank: list[float]
    reasons: list[tuple[str, str]]


def suggestions(model: Model, target: str, goal: str) -> list[Suggestion]:
    """The shipped recipes, best first; those that cannot be made or served come last, with the reason."""
    rows = [_suggestion(name, model, target, goal) for name in shipped.names("recipes")]
    return sorted(rows, key=lambda row: (not row.possible, row.rank, row.recipe))


def _suggestion(name: str, model: Model, target: str, goal: str) -> Suggestion:
    try:
        plan = plan_of(load_recipe(name), model)
        require_served(plan, target)
    except QuantpressError as error:
        return Suggestion(recipe=name, possible=False, rank=[], reasons=[(error.message, "plan and table")])
    support = servable.table(plan)[target].support
    rank, reasons = _GOALS[goal](plan, target)
    kernels = "; ".join(hardware.cell(kind, target).kernel for kind in servable.kinds_of(plan))
    reasons = [(f"{support}: {kernels}", _TABLE), *reasons]
    # What runs as something else is worth less than its name says, whatever the goal.
    rank = [hardware.SUPPORT.index(support), *rank]
    return Suggestion(recipe=name, possible=True, rank=rank, reasons=reasons)


Judged = tuple[list[float], list[tuple[str, str]]]


def _activation_bits(plan: Plan) -> int:
    return max((scheme.activation_bits for scheme in plan.schemes.values()), default=16)


def _weight_bits(plan: Plan) -> int:
    return max((scheme.weight_bits for scheme in plan.schemes.values()), default=16)


def _static(plan: Plan) -> bool:
    return any(scheme.activations == "static" for scheme in plan.schemes.values())


def _size(plan: Plan) -> float:
    return plan.checkpoint_bytes / plan.weight_bytes


def _latency(plan: Plan, target: str) -> Judged:
    if target not in hardware.GPUS:
        return _on_cpu(plan)
    reasons = [
        (f"{_size(plan):.0%} of the bytes to read for each token", _PLAN),
        ("with few requests, reading weights decides", _RULE),
    ]
    return [_size(plan), *_care(plan)], reasons


def _throughput(plan: Plan, target: str) -> Judged:
    if target not in hardware.GPUS:
        return _on_cpu(plan)
    bits = _activation_bits(plan)
    reasons = [
        (f"matrix products in {bits} bits", _TABLE),
        ("under load, matrix products decide", _RULE),
        (f"{_size(plan):.0%} of the model's bytes", _PLAN),
    ]
    return [bits, _static(plan), round(_size(plan), 2), *_care(plan)], reasons


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
