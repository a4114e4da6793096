"""What went wrong in a run that went through, in sentences for people: each with its consequence."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from quantpress.artifact.manifest import Calibrated, ExpertTokens
from quantpress.errors import StageError, listed
from quantpress.recipe.modifiers import Awq, Gptq
from quantpress.recipe.recipe import Recipe

# The share of the layers (or, of AWQ, of the mappings) that a modifier calibrates on data which may fall back to
# plain rounding. Beyond it the checkpoint is not what the recipe says, and the stage fails.
FALLBACK_LIMIT = 0.6
# An expert that saw fewer tokens has ranges and Hessians that are left to chance.
ENOUGH_EXPERT_TOKENS = 128
_SHOWN = 3

# What llmcompressor logs in one line for each module that it is true of, and what that means; `{}` are the modules.
_SAID = (
    (
        re.compile(r"Attempted to calibrate a module (?P<what>\w+) without statistics"),
        "calibration data never reached some modules ({}): their scales were not measured, and what they compute may "
        "be wrong; calibrate on other data",
    ),
    (
        re.compile(r"imatrix_mse: (?P<what>.*?)\.? Falling back to uniform MSE"),
        "the observer imatrix_mse had no use of its data ({}): weights were rounded without it",
    ),
    (
        re.compile(r"Failed to invert hessian(?P<what>) due to numerical instability"),
        "SparseGPT could not invert some Hessians: those layers were pruned by the size of their weights alone; raise "
        "sparsegpt.dampening_frac, or calibrate on more data",
    ),
)


def of_data(about: Calibrated, largest_input: int) -> list[str]:
    """What is wrong with the calibration data; `largest_input` is the number of input features of the widest layer."""
    warnings = [
        f"{source.dataset} fills {source.sequences} of {source.requested_sequences} sequences: "
        "the recipe calibrates on less data than it asks for"
        for source in about.sources
        if source.sequences < source.requested_sequences
    ]
    if about.images and about.images.too_long:
        warnings.append(
            f"{about.images.too_long} conversations of the calibration data are longer than max_sequence_length and "
            "were passed over, because an image's tokens cannot be cut: raise it, or make the images smaller"
        )
    if about.tokens < largest_input:
        warnings.append(
            f"{about.tokens} calibration tokens are fewer than the {largest_input} input features of the widest "
            "layer: GPTQ's Hessian cannot have full rank there, and activation ranges are guesses"
        )
    if about.distinct_sequences < about.sequences / 2:
        warnings.append(
            f"only {about.distinct_sequences} of {about.sequences} calibration sequences are distinct: "
            "one document repeated teaches no more than once"
        )
    return warnings


def of_experts(counted: ExpertTokens | None) -> list[str]:
    """Experts that saw too few tokens; where all see all tokens, those to which the router sent too few."""
    if counted is None or not counted.few:
        return []
    none = f", {counted.without} of them none" if counted.without else ""
    who = f"{len(counted.few)} of {counted.experts} experts ({grouped(counted.few)})"
    if counted.all_experts:
        return [
            f"the router sent {who} fewer than {ENOUGH_EXPERT_TOKENS} of the calibration tokens{none}: they were "
            "calibrated on tokens meant for others; calibrate on more data, or on data nearer to what is served"
        ]
    return [
        f"{who} saw fewer than {ENOUGH_EXPERT_TOKENS} calibration tokens{none}: their ranges are guesses, and GPTQ and "
        "AWQ know little of their inputs; calibrate on more data, or set calibration.all_experts: true"
    ]


_EXPERT = re.compile(r"^(?P<block>.*)\.experts\.(?P<number>\d+)$")


def grouped(experts: Sequence[str]) -> str:
    """Experts' names by their block, in bounded length: `layers.0.mlp: 1, 5, 7; layers.1.mlp: 3`."""
    blocks: dict[str, list[str]] = {}
    for name in experts:
        match = _EXPERT.match(name)
        blocks.setdefault(match["block"] if match else name, []).append(match["number"] if match else "")
    named = [f"{block}: {listed(numbers, 8)}".removesuffix(": ") for block, numbers in blocks.items()]
    return listed(named, _SHOWN, "; ")


# GPTQ tells of its failures once, at its end; AWQ of each, and at its end of the layers that it rescaled.
_GPTQ = re.compile(r"Hessian inversion failed for (\d+)/(\d+) modules.*Affected modules: (.*)", re.DOTALL)
_AWQ = re.compile(r"Skipping smooth_layer (\S+), NaN or inf outputs found")
_AWQ_DONE = re.compile(r"AWQ per-mapping error metrics: .*'total_layers': (\d+)")


def is_kept(record: Any) -> bool:
    """Whether a record of llmcompressor's log (loguru) is one of those that are looked at here."""
    return record["level"].name in ("WARNING", "ERROR") or record["message"].startswith("AWQ per-mapping")


def of_fallbacks(recipe: Recipe, said: Sequence[str]) -> list[str]:
    """The layers that were rounded without calibration, by what llmcompressor `said`.

    Raises StageError where a modifier of the recipe has more of them than it allows.
    """
    bodies = [modifier.body for modifier in recipe.modifiers]
    warnings = []
    for match in filter(None, map(_GPTQ.search, said)):
        fallen, layers = int(match[1]), int(match[2])
        limits = [body.fallback_limit for body in bodies if isinstance(body, Gptq)]
        _require_calibrated("gptq", fallen, layers, next(iter(limits), None))
        warnings.append(
            f"GPTQ could not invert the Hessians of {fallen} of {layers} layers ({_named(match[3], fallen)}): these "
            "were rounded to nearest, without calibration; look for activations that overflow, raise "
            "gptq.dampening_frac, or calibrate on more data"
        )
    if skipped := [match[1] for match in map(_AWQ.search, said) if match]:
        layers = len(skipped) + sum(int(match[1]) for match in map(_AWQ_DONE.search, said) if match)
        limits = [body.fallback_limit for body in bodies if isinstance(body, Awq)]
        _require_calibrated("awq", len(skipped), layers, next(iter(limits), None))
        warnings.append(
            f"AWQ did not rescale {len(skipped)} of {layers} places ({listed(skipped)}): what follows gave NaN or "
            "infinity on the calibration data, so layers there were rounded without it; look for activations that "
            "overflow"
        )
    return warnings


def _named(listed: str, count: int) -> str:
    """llmcompressor names ten at most."""
    names = listed.strip().split(", ")[:_SHOWN]
    return ", ".join(names) + (f" and {count - len(names)} more" if count > len(names) else "")


def _require_calibrated(modifier: str, fallen: int, of: int, limit: float | None) -> None:
    """Raises StageError if more than `limit` (FALLBACK_LIMIT where it is None) of the layers were rounded only."""
    allowed = FALLBACK_LIMIT if limit is None else limit
    if fallen / of <= allowed:
        return
    more = " or gptq.dampening_frac" if modifier == "gptq" else ""
    raise StageError(
        f"{modifier} rounded {fallen} of {of} layers without calibration ({fallen / of:.0%}, and {allowed:.0%} are "
        "allowed): the checkpoint would be plain rounding by another name",
        hint=f"raise calibration.samples{more}; save a float16 model whose activations overflow in bfloat16 first; "
        f"or use an rtn recipe, or set {modifier}.fallback_limit: 1",
    )


def of_llmcompressor(said: Sequence[str]) -> list[str]:
    """llmcompressor's own warnings that a person should know, each kind once."""
    found = []
    for pattern, sentence in _SAID:
        whats = dict.fromkeys(match["what"] for message in said if (match := pattern.search(message)))
        if whats:
            found.append(sentence.format(listed(list(whats))))
    return found
