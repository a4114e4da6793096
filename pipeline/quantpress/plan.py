"""The plan: a recipe made explicit for one model, before a weight is read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from quantpress import headers
from quantpress.errors import InputError
from quantpress.headers import Tensor
from quantpress.model import Model
from quantpress.recipe import Modifier, Quantizes, Recipe, SmoothQuant
from quantpress.schemes import SCHEMES

GROUP_SIZES = (128, 64, 32)
_EMBEDDING = re.compile(r"(^|\.)(embed_tokens|embed_in|wte|wpe|word_embeddings|position_embeddings|embed_positions)$")


@dataclass(frozen=True)
class Plan:
    """`recipe` has no `auto` left; `layers` are the names of the layers that it quantizes.

    `scales` says how far one scale reaches ("group of 64", "channel"); `largest_input` is the greatest number of input
    features among the layers; `weight_bytes` the model's size.
    """

    recipe: Recipe
    layers: tuple[str, ...]
    group_size: int | None
    scales: str
    largest_input: int
    weight_bytes: int


def linear_shapes(tensors: dict[str, Tensor], tied: bool) -> dict[str, tuple[int, int]]:
    """Shape (output features, input features) of each Linear layer, by module name."""
    shapes = {
        name.removesuffix(".weight"): (tensor.shape[0], tensor.shape[1])
        for name, tensor in tensors.items()
        if name.endswith(".weight") and len(tensor.shape) == 2
    }
    embeddings = [name for name in shapes if _EMBEDDING.search(name)]
    linears = {name: shape for name, shape in shapes.items() if name not in embeddings}
    if tied and embeddings:
        linears.setdefault("lm_head", shapes[embeddings[0]])
    return linears


def matches(name: str, patterns: Sequence[str]) -> bool:
    """compressed-tensors' rule for targets and ignore: a class, an exact name, or `re:` from the name's start."""
    return any(
        pattern in ("Linear", name) or (pattern.startswith("re:") and re.match(pattern[3:], name) is not None)
        for pattern in patterns
    )


def make(recipe: Recipe, model: Model) -> Plan:
    """Resolves `recipe` on `model`. Raises InputError where it cannot work or would do nothing."""
    tensors = headers.read_folder(model.path)
    linears = linear_shapes(tensors, bool(model.config.get("tie_word_embeddings")))
    layers: list[str] = []
    sizes: list[int] = []
    scales: set[str] = set()
    modifiers = []
    for modifier in recipe.modifiers:
        if isinstance(modifier.body, Quantizes):
            chosen = _targeted(modifier, modifier.body, linears)
            layers += chosen
            modifier, size = _resolve_group_size(modifier, modifier.body, {name: linears[name] for name in chosen})
            sizes += [size] if size else []
            scales.add(_scales(modifier.body, size))
        modifiers.append(modifier)
    return Plan(
        recipe=recipe.model_copy(update={"modifiers": modifiers}),
        layers=tuple(sorted(set(layers))),
        group_size=min(sizes) if sizes else None,
        scales=", ".join(sorted(scales)),
        largest_input=max(linears[name][1] for name in layers),
        weight_bytes=sum(tensor.nbytes for tensor in tensors.values()),
    )


def _scales(body: Quantizes | SmoothQuant, size: int | None) -> str:
    if not isinstance(body, Quantizes):
        return ""
    if body.weights:
        return f"group of {size}" if size else body.weights.strategy
    scheme = SCHEMES[body.scheme or ""]
    return f"group of {size or scheme.group_size}" if size or scheme.group_size else scheme.strategy


def _targeted(modifier: Modifier, body: Quantizes, linears: dict[str, tuple[int, int]]) -> list[str]:
    for field, patterns in (("targets", body.targets), ("ignore", body.ignore)):
        for pattern in patterns:
            if not any(matches(name, [pattern]) for name in linears) and (field, pattern) != ("ignore", "lm_head"):
                raise InputError(
                    f"{modifier.name}.{field}: {pattern!r} matches none of the model's {len(linears)} Linear layers",
                    hint=f"a layer is named like {next(iter(linears), 'nothing here')!r}; patterns start with re:",
                )
    chosen = [name for name in linears if matches(name, body.targets) and not matches(name, body.ignore)]
    if not chosen:
        raise InputError(
            f"{modifier.name}: every layer that targets names is also ignored, so the result would be a copy",
            hint="narrow `ignore` in the recipe",
        )
    return chosen


def _resolve_group_size(
    modifier: Modifier, body: Quantizes, shapes: dict[str, tuple[int, int]]
) -> tuple[Modifier, int | None]:
    requested = body.requested_group_size
    if requested is None:
        return modifier, None
    if requested == "auto":
        candidates = [size for size in GROUP_SIZES if all(shape[1] % size == 0 for shape in shapes.values())]
        if not candidates:
            name, shape = next((n, s) for n, s in shapes.items() if s[1] % GROUP_SIZES[-1])
            raise InputError(
                f"{modifier.name}: group_size auto: none of {GROUP_SIZES} divides the {shape[1]} input features "
                f"of {name}",
                hint="add that layer to `ignore`, or use a scheme without groups (W8A8)",
            )
        requested = candidates[0]
    for name, shape in shapes.items():
        if shape[1] % requested:
            raise InputError(
                f"{modifier.name}: group_size {requested} does not divide the {shape[1]} input features of {name}",
                hint="use group_size: auto, or add the layer to `ignore`",
            )
    return Modifier.model_validate({modifier.name: body.with_group_size(requested)}), requested
