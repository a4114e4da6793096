"""Which shipped recipe to try first, for a model, a target and a goal; every claim with its source."""

from __future__ import annotations

from pathlib import Path

from quantpress.errors import QuantpressError
from quantpress.language import shipped
from quantpress.model.source import Model
from quantpress.plan import hardware, measured, published, scored, servable
from quantpress.plan.measured import Speed
from quantpress.plan.resolve import Plan, plan_of
from quantpress.plan.scored import Loss
from quantpress.plan.servable import require_served
from quantpress.plan.summary import memory_of, size_in_words
from quantpress.recipe.loading import load_recipe
from quantpress.runtime.records import Record

_TABLE = "table of kernels, read from vLLM 0.32.0's source"
_PLAN = "this model's plan"
# Sequences in memory at once, and tokens of each, for which memory is counted.
_CONCURRENCY, _CONTEXT = 8, 4096


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
    known: dict[str, Speed] | dict[str, Loss] = {}
    if goal in ("latency", "throughput"):
        known = measured.speeds(out / model.name, target, under_load=goal == "throughput")
    elif goal == "accuracy":
        known = scored.losses(out / model.name)
    rows = [_suggestion(name, model, target, goal, known.get(name)) for name in shipped.names("recipes")]
    return sorted(rows, key=lambda row: (not row.possible, row.rank, row.recipe))


def _suggestion(name: str, model: Model, target: str, goal: str, known: Speed | Loss | None) -> Suggestion:
    try:
        plan = plan_of(load_recipe(name), model)
        require_served(plan, target)
    except QuantpressError as error:
        return Suggestion(recipe=name, possible=False, rank=[], reasons=[(error.message, "plan and table")])
    support = servable.table(plan)[target].support
    rank, reasons = _GOALS[goal](plan, model, target)
    kernels = "; ".join(hardware.cell(kind, target).kernel for kind in servable.kinds_of(plan))
    reasons = [*_claims(known), (f"{support}: {kernels}", _TABLE), *reasons]
    # What computes something else than it says is fast for nothing; what runs as something else is worth less than its
    # name says, unless it was measured.
    rank = [support == "inexact", *_measured_rank(known), hardware.SUPPORT.index(support), *rank]
    return Suggestion(recipe=name, possible=True, rank=rank, reasons=reasons)


def _measured_rank(known: Speed | Loss | None) -> list[float]:
    """What was measured comes first, and last where it was slower, or did not pass its gates."""
    if known is None:
        return [1, 0]
    if isinstance(known, Loss):
        return [2 if known.failed else 0, known.kl]
    return [2 if known.slower else 0, -known.speedup]


def _claims(known: Speed | Loss | None) -> list[published.Claim]:
    return [(known.claim, known.file)] if known else []


Judged = tuple[list[float], list[published.Claim]]


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


def _latency(plan: Plan, model: Model, target: str) -> Judged:
    if target not in hardware.GPUS:
        return _on_cpu(plan)
    reasons = [
        (f"{_size(plan):.0%} of the bytes to read for each token", _PLAN),
        ("with few requests, reading weights decides", published.RULE),
    ]
    kinds = set(_kinds(plan))
    weights_only = bool(kinds) and kinds <= {"W4A16", "W4A16 asymmetric"}
    if weights_only:
        reasons.insert(
            0,
            ("4-bit weights with 16-bit activations are most cost-efficient for synchronous requests", published.PAPER),
        )
    return [not weights_only, _size(plan), *_care(plan)], reasons


def _throughput(plan: Plan, model: Model, target: str) -> Judged:
    if target not in hardware.GPUS:
        return _on_cpu(plan)
    bits = _activation_bits(plan)
    kinds = sorted(set(_kinds(plan)))
    reasons = [claim for kind in kinds for claim in published.UNDER_LOAD.get(kind, [])]
    reasons += [(f"matrix products in {bits} bits", _TABLE), (f"{_size(plan):.0%} of the model's bytes", _PLAN)]
    place = max(map(published.place_under_load, kinds), default=published.place_under_load(""))
    return [place, bits, _static(plan), round(_size(plan), 2), *_care(plan)], reasons


def _on_cpu(plan: Plan) -> Judged:
    if _activation_bits(plan) == 8 and _weight_bits(plan) == 8:
        return [0, *_care(plan)], [
            ("W8A8 ran at 1.44 of bf16's speed under load, in the shapes of a 1B model", published.CPU)
        ]
    if _weight_bits(plan) == 4:
        return [2, *_care(plan)], [("4-bit weights ran at 0.56 to 0.73 of bf16's speed", published.CPU)]
    return [1, *_care(plan)], [("no faster than bf16 is to be expected", published.RULE)]


def _memory(plan: Plan, model: Model, target: str) -> Judged:
    """By what serving takes, counted; less than 1% of the unquantized weights apart counts as the same."""
    memory = memory_of(plan, model.config, _CONTEXT, _CONCURRENCY)
    weights, cache = size_in_words(memory.weights), size_in_words(memory.kv_cache)
    total = memory.weights + (memory.kv_cache or 0)
    reasons = [
        (f"{weights} weights ({_size(plan):.0%} of the model's bytes)", f"{_PLAN}, counted to the byte"),
        (f"{cache} KV cache at most ({_CONCURRENCY} sequences of {_CONTEXT} tokens)", f"{_PLAN}, counted to the byte"),
    ]
    return [round(total / plan.weight_bytes, 2), *_care(plan), total], reasons


def _accuracy(plan: Plan, model: Model, target: str) -> Judged:
    kinds = sorted(set(_kinds(plan)))
    static = _static(plan)
    coarse = any(scheme.strategy == "tensor" for scheme in plan.schemes.values())
    reasons = [claim for kind in kinds for claim in published.ACCURACY.get(kind, [])]
    reasons += published.kl_of(plan.recipe.name)
    if static:
        reasons.append(("fixed activation scales lost more than dynamic ones", f"{published.MEASURED}, SmolLM2-135M"))
    if not reasons:
        bits = f"{_weight_bits(plan)}-bit weights and {_activation_bits(plan)}-bit activations"
        reasons = [(f"no published measurement known of {bits}", published.RULE)]
    place = max(map(published.place_in_accuracy, kinds), default=0)
    own = published.KL.get(plan.recipe.name, max(published.KL.values()))
    return [place, static or coarse, own, -_weight_bits(plan), -_activation_bits(plan), *_care(plan)], reasons


def _care(plan: Plan) -> list[float]:
    """Among equals: calibrated rounding before plain, and the finer of two grids."""
    careful = any(modifier.name in ("gptq", "awq") for modifier in plan.recipe.modifiers)
    return [0 if careful else 1, plan.group_size or 0]


_GOALS = {"latency": _latency, "throughput": _throughput, "accuracy": _accuracy, "memory": _memory}


def text(rows: list[Suggestion], target: str, goal: str) -> str:
    """The ranking for people."""
    lines = [f"for {goal} on {target}, best first:"]
    possible = [row for row in rows if row.possible]
    for place, row in enumerate(possible, 1):
        lines.append(f"{place:2}. {row.recipe}")
        lines += [f"      {claim} ({source})" for claim, source in row.reasons]
    lines += [f" -  {row.recipe}: {row.reasons[0][0]}" for row in rows if not row.possible]
    return "\n".join(lines)
