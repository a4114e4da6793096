"""A resolved recipe as llmcompressor's modifiers."""

from __future__ import annotations

from typing import Any

from quantpress.model.layers import parents
from quantpress.recipe import modifiers
from quantpress.recipe.modifiers import Awq, Gptq, Group, KvCache, Modifier, Prunes, Quantizes
from quantpress.recipe.recipe import Recipe


def modifiers_of(recipe: Recipe, model: Any) -> list[Any]:
    """llmcompressor's modifiers for a resolved recipe, in order; `model` is asked for its layers' names."""
    return [made for modifier in recipe.modifiers for made in _made(modifier, model)]


def _made(modifier: Modifier, model: Any) -> list[Any]:
    body = modifier.body
    if isinstance(body, Prunes):
        return [_pruning(modifier.name, body, model)]
    if not isinstance(body, Quantizes):
        return [_modifier_class(modifier.name)(**_options(body))]
    groups = _quantization(body) if body.quantizes else {}
    if isinstance(body, Awq):
        rescale = _modifier_class("awq")(**_options(body))
        return [rescale, _modifier_class("rtn")(**groups)] if groups else [rescale]
    options = _options(body)
    if isinstance(body, Gptq):
        options |= {key: None for key in ("actorder", "batched_quantization") if options.get(key) == "none"}
    return [_modifier_class(modifier.name)(**groups, **options)]


def _modifier_class(name: str) -> Any:
    from llmcompressor.modifiers.gptq import GPTQModifier
    from llmcompressor.modifiers.pruning.reap import REAPPruningModifier
    from llmcompressor.modifiers.pruning.sparsegpt import SparseGPTModifier
    from llmcompressor.modifiers.pruning.wanda import WandaPruningModifier
    from llmcompressor.modifiers.quantization import QuantizationModifier
    from llmcompressor.modifiers.transform.awq import AWQModifier
    from llmcompressor.modifiers.transform.quip import QuIPModifier
    from llmcompressor.modifiers.transform.smoothquant import SmoothQuantModifier
    from llmcompressor.modifiers.transform.spinquant import SpinQuantModifier

    if name == "autoround":  # imports auto-round, which takes seconds
        from llmcompressor.modifiers.autoround import AutoRoundModifier

        return AutoRoundModifier
    return {
        "rtn": QuantizationModifier,
        "gptq": GPTQModifier,
        "awq": AWQModifier,
        "smoothquant": SmoothQuantModifier,
        "spinquant": SpinQuantModifier,
        "quip": QuIPModifier,
        "sparsegpt": SparseGPTModifier,
        "wanda": WandaPruningModifier,
        "reap": REAPPruningModifier,
    }[name]


def _options(body: modifiers.Body) -> dict[str, Any]:
    """A modifier's own fields, by the names that llmcompressor knows; what is left out is left to it."""
    shared = set(Quantizes.model_fields) if isinstance(body, Quantizes) else set()
    options = body.model_dump(exclude_none=True, exclude={*shared, "fallback_limit"})
    if isinstance(body, Awq) and "mappings" in options:
        from llmcompressor.modifiers.transform.awq import AWQMapping

        options["mappings"] = [AWQMapping(**mapping) for mapping in options["mappings"]]
    if isinstance(body, modifiers.SmoothQuant) and "mappings" in options:
        options["mappings"] = [[item["balance_layers"], item["smooth_layer"]] for item in options["mappings"]]
    return options


def _pruning(name: str, body: Prunes, model: Any) -> Any:
    """SparseGPT and Wanda with the layers named one by one, also those inside of the modules that are targeted.

    llmcompressor 0.14 compares `ignore` with a layer's name and a dot after it, so that "lm_head" ignores nothing.
    """
    from compressed_tensors.utils import match_named_modules

    targeted = {layer for layer, _ in match_named_modules(model, body.targets)}
    ignored = {layer for layer, _ in match_named_modules(model, body.ignore)}
    layers = [
        layer
        for layer, _ in match_named_modules(model, ["Linear"])
        if layer not in ignored and not targeted.isdisjoint([layer, *parents(layer)])
    ]
    options = body.model_dump(exclude_none=True, exclude={"targets", "ignore"})
    return _modifier_class(name)(**options, targets=layers, ignore=[])


def _quantization(body: Quantizes) -> dict[str, Any]:
    """llmcompressor's `config_groups`, `kv_cache_scheme` and `ignore`."""
    arguments: dict[str, Any] = {"ignore": body.ignore}
    if body.all_groups:
        made = [_scheme(group) for group in body.all_groups]
        arguments["config_groups"] = {f"group_{index}": scheme for index, scheme in enumerate(made)}
    if body.kv_cache:
        arguments["kv_cache_scheme"] = _kv_cache(body.kv_cache)
    return arguments


def _scheme(group: Group) -> Any:
    """compressed-tensors' preset with our group size and observers, or the explicit arguments."""
    from compressed_tensors.quantization import QuantizationScheme, preset_name_to_scheme

    if group.scheme:
        scheme = preset_name_to_scheme(group.scheme, group.targets)
        if isinstance(group.group_size, int):
            scheme.weights.group_size = group.group_size
        if group.weight_observer:
            scheme.weights.observer = group.weight_observer
        if group.input_observer:
            scheme.input_activations.observer = group.input_observer
    else:
        parts = {"weights": group.weights, "input_activations": group.input_activations}
        arguments = {name: part.model_dump(exclude_none=True) for name, part in parts.items() if part}
        scheme = QuantizationScheme(targets=group.targets, **arguments)
    scheme.format = _format(scheme)
    return scheme


def _format(scheme: Any) -> Any:
    """How the scheme's weights are stored: as those of plain Linear layers.

    compressed-tensors 0.19 asks each layer for its format, and the first one decides: one whose class is derived from
    Linear or Embedding would leave all of them unpacked. It stores 4-bit weights in 8 bits where activations are
    quantized too; vLLM's kernels for W4A8 and W4AFP8 load packed weights only.
    """
    from compressed_tensors.compressors.base import COMPRESSIBLE_MODULE_TYPES
    from compressed_tensors.compressors.format import infer_module_format

    weights, inputs = scheme.weights, scheme.input_activations
    if inputs is not None and weights.type == "int" and weights.num_bits < 8:
        return "pack-quantized"
    return infer_module_format(COMPRESSIBLE_MODULE_TYPES[0], scheme)


def _kv_cache(cache: KvCache) -> Any:
    from compressed_tensors.quantization import QuantizationArgs

    return QuantizationArgs(**cache.model_dump(exclude_none=True), symmetric=True, dynamic=False)
