"""The plan: a recipe made explicit for one model, before a weight is read."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable
from dataclasses import dataclass, field, replace
from math import prod

from quantpress.errors import InputError, listed
from quantpress.model import layers
from quantpress.model.config import Config
from quantpress.model.headers import Tensor
from quantpress.model.layers import Layers, Shape
from quantpress.model.source import Model
from quantpress.model.structure import described_tensors, structure_of
from quantpress.plan import fused, preflight, sizes
from quantpress.plan.arithmetic import ComputeDtype
from quantpress.plan.fused import Packing
from quantpress.recipe.modifiers import Group, Modifier, Quantizes, Reap
from quantpress.recipe.presets import Scheme
from quantpress.recipe.recipe import Recipe

GROUP_SIZES = (128, 64, 32)
# A class of modules, as in `ignore: [LlamaRMSNorm]`. Ignoring one that the model does not have is true; recipes for
# several families list what they do not touch.
_CLASS = re.compile(r"^(?!Linear$)[A-Z][A-Za-z0-9]*[a-z][A-Za-z0-9]*$")


class NoMatchError(InputError):
    """A pattern matches no layer. Of a config alone that is no proof: layers that transformers does not load (MTP) are
    known by their tensors."""


@dataclass(frozen=True)
class Plan:
    """`recipe` has no `auto` left; `layers` are the names of the layers that it quantizes.

    `scales` says how far one scale reaches ("group of 64", "channel"); `largest_input` is the greatest number of input
    features among the layers; `weight_bytes` the model's size, `checkpoint_bytes` what it will be and
    `untouched_bytes` the part of it that is not quantized; `schemes` how each layer is stored, `targets` those of its
    group; `notes` what a person should know; `architectures` are the classes that the config names, `packing` what
    vLLM makes of its layers; `compute_dtype` in which type calibration runs (quantpress.plan.arithmetic); `parameters`
    how many numbers the weights are; `latent_attention` whether its attention is multi-head latent attention.
    """

    recipe: Recipe
    layers: tuple[str, ...]
    group_size: int | None
    scales: str
    largest_input: int
    weight_bytes: int
    checkpoint_bytes: int = 0
    untouched_bytes: int = 0
    schemes: dict[str, Scheme] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    targets: dict[str, tuple[str, ...]] = field(default_factory=dict)
    structure: Layers = field(default_factory=lambda: Layers({}))
    packing: Packing = fused.GENERIC
    architectures: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    compute_dtype: ComputeDtype = "stored"
    parameters: int = 0
    latent_attention: bool = False

    @property
    def architecture(self) -> str | None:
        """The class of the whole model."""
        return self.architectures[0] if self.architectures else None

    def scales_of(self, name: str) -> str:
        return _scales(self.schemes[name])


@dataclass(frozen=True)
class _Chosen:
    """The layers of one group of one modifier."""

    modifier: str
    group: Group
    names: list[str]
    size: int | None


def plan_of(recipe: Recipe, model: Model) -> Plan:
    """Resolves `recipe` on `model`. Raises InputError where it cannot work, or would do nothing."""
    asked = [preflight.asked(modifier) for modifier in recipe.modifiers if preflight.rescales(modifier)]
    files = model.headers()
    structure = structure_of(model.path, model.config, files, model.trust_remote_code, asked)
    tensors = files or described_tensors(model.config, structure)
    return make_from(recipe, tensors, model.config, layers.asked(structure))


def make_from(recipe: Recipe, tensors: dict[str, Tensor], config: Config, structure: Layers) -> Plan:
    """The plan for a model that is known by its tensors' headers, its config, and what the libraries say of it."""
    weight_bytes = sum(tensor.nbytes for tensor in tensors.values())
    parameters = sum(prod(tensor.shape) for tensor in tensors.values())
    for modifier in recipe.modifiers:
        if isinstance(modifier.body, Reap):
            left = preflight.experts_left(modifier.body, config)
            tensors, structure = preflight.without_experts(tensors, structure, left)
    packing = fused.packing_of(config)
    structure = fused.left_alone(structure, packing)
    _require_linear(structure)
    recipe, absent = _without_absent(recipe, structure)
    resolved, chosen = _resolve(recipe, structure)
    schemes = {name: scheme_of(one.group, one.size) for one in chosen for name in one.names}
    notes = preflight.check(resolved, schemes, structure, config, packing)
    untouched = sum(tensor.nbytes for tensor in tensors.values())
    untouched -= sum(_own_bytes(name, structure, tensors) for name in schemes)
    untouched += _untied_bytes(resolved, schemes, structure, tensors)
    return Plan(
        recipe=resolved,
        layers=tuple(sorted(schemes)),
        group_size=min((one.size for one in chosen if one.size), default=None),
        scales=", ".join(sorted({_scales(scheme) for scheme in schemes.values()})),
        largest_input=max((structure.linears[name][1] for name in schemes if name in structure.linears), default=0),
        weight_bytes=weight_bytes,
        checkpoint_bytes=untouched + sum(_stored(name, scheme, structure, tensors) for name, scheme in schemes.items()),
        untouched_bytes=untouched,
        schemes=schemes,
        labels={name: one.group.scheme or _label(schemes[name]) for one in chosen for name in one.names},
        targets={name: tuple(one.group.targets) for one in chosen for name in one.names},
        structure=structure,
        packing=packing,
        architectures=fused.architectures(config),
        notes=(*_left_alone(resolved, structure), *absent, *notes, *preflight.poor_chats(resolved, parameters)),
        parameters=parameters,
        latent_attention=sizes.latent_rank(config) > 0,
    )


def _require_linear(structure: Layers) -> None:
    """Raises InputError for a model that has none beside its head: GPT-2 and its kin are made of Conv1D."""
    if not any(name.rpartition(".")[2] != "lm_head" for name in structure.linears):
        raise InputError(
            "the model has no Linear layers beside its output head; Conv1D, of which GPT-2 and its kin are made, is "
            "quantized neither by llmcompressor nor by vLLM",
            hint="take a model of another family",
        )


def _left_alone(recipe: Recipe, structure: Layers) -> list[str]:
    """What a default `ignore` leaves in 16 bits, by reason."""
    ignored = {name for m in recipe.modifiers if isinstance(m.body, Quantizes) for name in m.body.ignore}
    reasons: dict[str, list[str]] = {}
    for pattern, reason in structure.left_alone.items():
        if pattern in ignored and pattern != "lm_head":
            reasons.setdefault(reason, []).append(pattern)
    return [
        f"left in 16 bits: {patterns[0]}{f' and {len(patterns) - 1} more' if len(patterns) > 1 else ''} ({reason})"
        for reason, patterns in reasons.items()
    ]


def _without_absent(recipe: Recipe, structure: Layers) -> tuple[Recipe, list[str]]:
    """The recipe with what its `ignore_if_present` name on this model in `ignore`, and notes on what they do not."""
    modifiers, notes = [], []
    for modifier in recipe.modifiers:
        body, named = modifier.body, getattr(modifier.body, "ignore_if_present", None)
        if named is not None:
            present = [name for name in named if _CLASS.match(name) or structure.matching(name, structure.names)]
            absent = [name for name in named if name not in present]
            if absent:
                notes.append(f"{modifier.name}.ignore_if_present: nothing here is named {listed(absent)}")
            if isinstance(body, Quantizes):
                body = _with_default_ignore(body, structure)
            update = {"ignore": [*(getattr(body, "ignore", None) or []), *present], "ignore_if_present": None}
            modifier = Modifier.model_validate({modifier.name: body.model_copy(update=update)})
        modifiers.append(modifier)
    return recipe.model_copy(update={"modifiers": modifiers}), notes


def _resolve(recipe: Recipe, structure: Layers) -> tuple[Recipe, list[_Chosen]]:
    """The recipe without `auto`, and which layers each of its groups takes."""
    chosen: list[_Chosen] = []
    modifiers = []
    for modifier in recipe.modifiers:
        if isinstance(modifier.body, Quantizes) and modifier.role == "quantizes":
            body = _with_default_ignore(modifier.body, structure)
            groups = _choose(modifier, body, structure)
            sized = body.with_group_sizes([one.size for one in groups])
            modifier = Modifier.model_validate({modifier.name: sized})
            chosen += groups
        modifiers.append(preflight.held_to_the_language_model(modifier, structure))
    _check_no_layer_twice(chosen)
    return recipe.model_copy(update={"modifiers": modifiers}), chosen


def _with_default_ignore(body: Quantizes, structure: Layers) -> Quantizes:
    """Where a recipe says no more than the default, what this model's publishers would leave alone.

    A recipe that means the towers too lists something else, or nothing: `ignore: []`.
    """
    if body.ignore != ["lm_head"] or not structure.left_alone:
        return body
    return body.model_copy(update={"ignore": list(structure.left_alone)})


def _weight(name: str, structure: Layers, tensors: dict[str, Tensor]) -> Tensor | None:
    """The tensor of a layer's weight; None for a tied head, and for an expert that shares a tensor with others."""
    return tensors.get(f"{structure.stored_name(name)}.weight")


def _own_bytes(name: str, structure: Layers, tensors: dict[str, Tensor]) -> int:
    if tensor := _weight(name, structure, tensors):
        return tensor.nbytes
    return 0 if name.endswith("lm_head") else prod(structure.shapes[name]) * _element_bytes(tensors)


def _element_bytes(tensors: dict[str, Tensor]) -> int:
    """Bytes of a number in the largest tensor, which is where most of the model is."""
    largest = max(tensors.values(), key=lambda tensor: tensor.nbytes)
    return largest.nbytes // prod(largest.shape)


def _stored(name: str, scheme: Scheme, structure: Layers, tensors: dict[str, Tensor]) -> int:
    tensor = _weight(name, structure, tensors)
    each = tensor.nbytes // prod(tensor.shape) if tensor else _element_bytes(tensors)
    return sizes.layer_bytes(structure.shapes[name], scheme, each)


def _untied_bytes(recipe: Recipe, schemes: Container[str], structure: Layers, tensors: dict[str, Tensor]) -> int:
    """SpinQuant, and quantizing the embedding, need lm_head apart from the embedding that it shares its weight with."""
    alone = structure.tied in schemes and "lm_head" not in schemes
    apart = structure.tied and (alone or any(modifier.name == "spinquant" for modifier in recipe.modifiers))
    return tensors[f"{structure.tied}.weight"].nbytes if apart else 0


def scheme_of(group: Group, size: int | None) -> Scheme:
    """How a group is stored, whether it names a preset or gives explicit arguments; `size` is its group size."""
    if group.preset:
        return replace(group.preset, group_size=size or group.preset.group_size)
    weights, inputs = group.weights, group.input_activations
    assert weights is not None  # a group has either
    return Scheme(
        weight_bits=weights.num_bits,
        group_size=size,
        symmetric=weights.symmetric,
        kind=weights.type,
        activations="none" if inputs is None else "dynamic" if inputs.dynamic else "static",
        strategy=weights.strategy,
        activation_bits=inputs.num_bits if inputs else 16,
        activation_kind=inputs.type if inputs else "float",
        block=(weights.block_structure[0], weights.block_structure[1]) if weights.block_structure else None,
    )


def _scales(scheme: Scheme) -> str:
    return f"group of {scheme.group_size}" if scheme.group_size else scheme.strategy


def _label(scheme: Scheme) -> str:
    kind = "" if scheme.kind == "int" else "fp"
    activations = "" if scheme.activation_kind == "int" or scheme.activations == "none" else "fp"
    return f"w{kind}{scheme.weight_bits}a{activations}{scheme.activation_bits}"


def _choose(modifier: Modifier, body: Quantizes, structure: Layers) -> list[_Chosen]:
    names = list(structure.shapes)
    for group in body.all_groups:
        _check_matches(f"{modifier.name}.targets", group.targets, names, structure)
    if body.all_groups:
        named = [pattern for pattern in body.ignore if not _CLASS.match(pattern) and pattern != "lm_head"]
        _check_matches(f"{modifier.name}.ignore", named, [*structure.names, *structure.not_loaded], structure)
    chosen = []
    for group in body.all_groups:
        found = structure.selected(names, group.targets, body.ignore)
        if not found:
            raise InputError(
                f"{modifier.name}: every layer that targets {group.targets} name is also ignored, "
                "so the result would be a copy"
                if not body.groups
                else f"{modifier.name}.groups: every layer that {group.targets} name is also ignored",
                hint="narrow `ignore` in the recipe",
            )
        preflight.check_embeddings(modifier.name, group, [name for name in found if name in structure.embeddings])
        shapes = {name: structure.shapes[name] for name in found}
        chosen.append(_Chosen(modifier.name, group, found, _group_size(modifier.name, group, shapes)))
    return chosen


def _check_matches(what: str, patterns: Iterable[str], names: list[str], structure: Layers) -> None:
    for pattern in patterns:
        if structure.matching(pattern, names):
            continue
        if inside := structure.within(structure.matching(pattern, structure.containers)):
            raise InputError(
                f"{what}: {pattern!r} names modules that only hold layers, such as those of {inside[0]}; Linear layers "
                "and embeddings are quantized, and llmcompressor would leave out all others without a word",
                hint=f"name the layers inside by a pattern: re:.*{inside[0].split('.')[-2]}[.]",
            )
        unfit = "is the class of modules that cannot be quantized, and " if pattern in structure.bases else ""
        raise NoMatchError(
            f"{what}: {pattern!r} {unfit}matches none of the model's {len(names)} layers",
            hint=f"a layer is named like {next(iter(names), 'nothing here')!r}; patterns start with re:",
        )


def _group_size(modifier: str, group: Group, shapes: dict[str, Shape]) -> int | None:
    requested = group.requested_group_size
    if requested is None:
        fixed = group.preset.group_size if group.preset else None
        _check_divides(modifier, fixed, shapes, "use another scheme, or add the layer to `ignore`") if fixed else None
        return None
    if requested != "auto":
        _check_divides(modifier, requested, shapes, "use group_size: auto, or add the layer to `ignore`")
        return requested
    for size in GROUP_SIZES:
        if all(shape[1] % size == 0 for shape in shapes.values()):
            return size
    name, shape = next((n, s) for n, s in shapes.items() if s[1] % GROUP_SIZES[-1])
    raise InputError(
        f"{modifier}: group_size auto: none of {GROUP_SIZES} divides the {shape[1]} input features of {name}",
        hint="add that layer to `ignore`, or use a scheme without groups (W8A8)",
    )


def _check_divides(modifier: str, size: int, shapes: dict[str, Shape], hint: str) -> None:
    for name, shape in shapes.items():
        if shape[1] % size:
            raise InputError(
                f"{modifier}: group_size {size} does not divide the {shape[1]} input features of {name}", hint=hint
            )


def _check_no_layer_twice(chosen: list[_Chosen]) -> None:
    owners: dict[str, str] = {}
    for one in chosen:
        who = f"{one.modifier} {one.group.targets}"
        for name in one.names:
            if name in owners:
                raise InputError(
                    f"{name} is quantized twice: by {owners[name]} and by {who}",
                    hint="write targets that share no layer, such as re:.*(q|k|v)_proj$ beside re:.*o_proj$",
                )
            owners[name] = who
