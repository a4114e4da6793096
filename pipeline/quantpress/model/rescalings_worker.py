"""What AWQ and SmoothQuant would rescale in a model, by llmcompressor's own code; part of the structure's worker."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from quantpress.errors import first_line
from quantpress.model.structure import Algorithm, Asked, Mapping, Rescaled, Rescalings

_ALGORITHMS: tuple[Algorithm, ...] = ("awq", "smoothquant")


def rescalings(model: Any, decoder: str | None, asked: Sequence[Asked]) -> list[Rescalings]:
    """llmcompressor's own mappings of each algorithm, and those that were asked for, resolved in the model.

    `decoder` is the name of the language model in one for several media.
    """
    return [_own(model, algorithm, decoder) for algorithm in _ALGORITHMS] + [
        _resolved(model, one, one.mappings or []) for one in asked
    ]


def _own(model: Any, algorithm: Algorithm, decoder: str | None) -> Rescalings:
    asked = Asked(algorithm=algorithm)
    try:
        mappings = list(_mappings_of(model, algorithm))
    except ValueError as error:
        return Rescalings(asked=asked, refused=first_line(error))
    found = _resolved(model, asked, mappings)
    if decoder is None or (found.refused is None and _all_within(found, decoder)):
        return found
    within = [_within(mapping, decoder) for mapping in mappings]
    return _resolved(model, asked, within).model_copy(update={"within": within})


def _mappings_of(model: Any, algorithm: Algorithm) -> Iterator[Mapping]:
    """Those that llmcompressor has for the model's class, or by default. Raises ValueError where it finds none."""
    from llmcompressor.modifiers.transform.awq import dynamic_mappings as awq
    from llmcompressor.modifiers.transform.smoothquant import dynamic_mappings as smoothquant

    if algorithm == "awq":
        for mapping in awq.get_layer_mappings_from_model(model):
            yield Mapping(
                smooth_layer=mapping.smooth_layer,
                balance_layers=list(mapping.balance_layers),
                activation_hook_target=mapping.activation_hook_target,
            )
        return
    for balance, smooth in smoothquant.get_layer_mappings_from_model(model):
        yield Mapping(smooth_layer=smooth, balance_layers=list(balance))


def _all_within(found: Rescalings, decoder: str) -> bool:
    return all(one.smooth.startswith(f"{decoder}.") for one in found.found)


def _within(mapping: Mapping, decoder: str) -> Mapping:
    """The mapping for layers of the language model alone."""
    return mapping.model_copy(
        update={
            "smooth_layer": _pattern_within(mapping.smooth_layer, decoder),
            "balance_layers": [_pattern_within(pattern, decoder) for pattern in mapping.balance_layers],
        }
    )


def _pattern_within(pattern: str, decoder: str) -> str:
    ahead = f"re:(?={re.escape(decoder)}\\.)"
    return ahead + pattern.removeprefix("re:") if pattern.startswith("re:") else pattern


def _resolved(model: Any, asked: Asked, mappings: Sequence[Mapping]) -> Rescalings:
    try:
        found = list(_RESOLVERS[asked.algorithm](model, mappings))
    except (ValueError, RuntimeError) as error:  # SmoothQuant's has its reason as the cause
        return Rescalings(asked=asked, refused=first_line(error.__cause__ or error))
    return Rescalings(asked=asked, found=found)


def _resolved_by_awq(model: Any, mappings: Sequence[Mapping]) -> Iterator[Rescaled]:
    """As if every Linear layer were to be quantized; AWQ leaves out mappings whose shapes do not fit."""
    import torch
    from llmcompressor.modifiers.transform.awq import AWQMapping, AWQModifier

    for _, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.quantization_scheme = None  # it only has to be there
    modifier = AWQModifier(mappings=[AWQMapping(**mapping.dump()) for mapping in mappings])
    modifier._set_resolved_mappings(model)
    for one in modifier._resolved_mappings:
        yield Rescaled(smooth=one.smooth_name, balance=list(one.balance_names))


def _resolved_by_smoothquant(model: Any, mappings: Sequence[Mapping]) -> Iterator[Rescaled]:
    from llmcompressor.modifiers.transform.smoothquant import SmoothQuantModifier

    modifier = SmoothQuantModifier(mappings=[[one.balance_layers, one.smooth_layer] for one in mappings])
    names = {id(module): name for name, module in model.named_modules()}
    for one in modifier._resolve_mappings(model):
        yield Rescaled(smooth=one.smooth_name, balance=[names[id(layer)] for layer in one.balance_layers])


_RESOLVERS = {"awq": _resolved_by_awq, "smoothquant": _resolved_by_smoothquant}
