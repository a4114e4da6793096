"""Builds a model on torch's meta device, where no tensor holds a number, and writes down what it is made of."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from quantpress.errors import InputError, first_line
from quantpress.model.structure import STRUCTURE, Linear, Structure, StructureJob


def whole_class(config: Any) -> Any:
    """The class of transformers that holds the whole checkpoint: the one that its config names.

    AutoModelForCausalLM would load the language model of an image-text model alone, or nothing of it. Models with code
    of their own are not in transformers, and None is returned.
    """
    import transformers

    return next((found for name in config.architectures or [] if (found := getattr(transformers, name, None))), None)


def structure(job: StructureJob) -> Structure:
    """Raises InputError where transformers cannot build the model."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(job.folder, trust_remote_code=job.trust_remote_code)
        kind = whole_class(config)
        with torch.device("meta"):
            if kind is None:
                model = AutoModelForCausalLM.from_config(config, trust_remote_code=job.trust_remote_code)
            else:
                model = kind(config)
    except (ValueError, KeyError, AttributeError, ImportError, TypeError, OSError, RuntimeError) as error:
        raise InputError(
            f"transformers cannot build the model that {job.folder}/config.json describes: {first_line(error)}",
            hint="look at the config; code that a model brings runs with --trust-remote-code only",
        ) from error
    tensors = model.state_dict()
    loaded = {name: stored_names(model, name, tensor) for name, tensor in tensors.items()}
    fused = [stored for name in _fused_experts(model) for stored in loaded[name]]
    _linearize(model)
    keep_expert_names(model)
    linears = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    stored = {name: stored_names(model, f"{name}.weight", module.weight)[0] for name, module in linears.items()}
    tied = _tied(model, linears)
    return Structure(
        model_class=type(model).__name__,
        linears={
            name: Linear(
                outputs=module.weight.shape[0],
                inputs=module.weight.shape[1],
                stored=stored[name].removesuffix(".weight"),
            )
            for name, module in linears.items()
        },
        others=[name for name, module in model.named_modules() if name not in linears and _has_weight(module)],
        tied=tied,
        fused_experts=sorted(fused),
        loaded=sorted({stored for names in loaded.values() for stored in names}),
        left_alone=dict(_left_alone(model, linears)),
        note=f"{type(model).__name__}, {len(linears)} Linear layers",
    )


def stored_names(model: Any, name: str, tensor: Any) -> list[str]:
    """What a tensor of the model is called in the files: by transformers' own renaming, backwards.

    Several names for one that the files keep in parts, such as experts one by one.
    """
    from transformers.core_model_loading import revert_weight_conversion

    try:
        return list(revert_weight_conversion(model, {name: tensor})) or [name]
    except Exception:  # a conversion that needs the other parts too: the files hold it under the model's name
        return [name]


_ONE_BY_ONE = re.compile(r"\.experts\.\*\.(?P<name>\w+)\.weight$")
_EXPERT_PARTS = {"gate_up_proj": ("gate_proj", "up_proj"), "up_proj": ("up_proj",), "down_proj": ("down_proj",)}


def keep_expert_names(model: Any) -> None:
    """Has experts saved under the names that the files of their family give them one by one, such as Mixtral's w1.

    transformers' conversion says of which parts it makes its tensors of experts. llmcompressor 0.14 takes these apart
    into gate_proj, up_proj and down_proj, and would save them so.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import PrefixChange, WeightConverter, WeightRenaming

    conversions = getattr(model, "_weight_conversions", None)
    if conversions is None:  # as transformers itself does for a model that was built from a config
        known = get_model_conversion_mapping(model, add_legacy=False)
        conversions = [one for one in known if not isinstance(one, PrefixChange)]
    renamed: dict[str, str] = {}
    for one in conversions:
        parts = _EXPERT_PARTS.get(one.target_patterns[0].rpartition(".")[2], ())
        found = [match["name"] for pattern in one.source_patterns if (match := _ONE_BY_ONE.search(pattern))]
        if isinstance(one, WeightConverter) and len(found) == len(parts):
            renamed |= dict(zip(found, parts, strict=True))
    renamings = [
        WeightRenaming(rf"\.experts\.(\d+)\.{theirs}", rf".experts.\1.{ours}")
        for theirs, ours in renamed.items()
        if theirs != ours
    ]
    if renamings:
        model._weight_conversions = [*conversions, *renamings]


def _has_weight(module: Any) -> bool:
    return any(True for _ in module.parameters(recurse=False))


def _fused_experts(model: Any) -> Iterator[str]:
    """The parameters of every module that llmcompressor would take apart into experts."""
    from llmcompressor.modeling.moe.linearize import get_non_linearized_moes

    for name, module in get_non_linearized_moes(model):
        yield from (f"{name}.{parameter}" for parameter, _ in module.named_parameters(recurse=False))


def _linearize(model: Any) -> None:
    """Takes fused experts apart as `oneshot` will. On the meta device there is nothing to offload."""
    import torch
    from llmcompressor.modeling.moe import linear_experts
    from llmcompressor.modeling.moe.linearize import linearize_moe

    linear_experts.get_cache_init_kwargs = lambda *_: {}
    linear_experts.offload_module = lambda *_, **__: None
    with torch.device("meta"):
        linearize_moe(model)


def _tied(model: Any, linears: dict[str, Any]) -> str | None:
    """The embedding whose weight lm_head shares."""
    output, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    names = {id(module): name for name, module in model.named_modules()}
    if output is None or embedding is None or names.get(id(output)) not in linears:
        return None
    tied = getattr(model.config.get_text_config(), "tie_word_embeddings", False) or model.config.tie_word_embeddings
    return names.get(id(embedding)) if tied else None


def _left_alone(model: Any, linears: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Patterns for `ignore`, and why: what publishers of quantized models of these families keep in 16 bits.

    All of it is read off the model: what lies outside the text decoder, what decides among experts, what sets the decay
    of a linear attention, what feeds per-layer embeddings.
    """
    names = {id(module): name for name, module in model.named_modules()}
    output = model.get_output_embeddings()
    head = names.get(id(output)) if output is not None else None
    if head in linears:
        yield str(head), "the output head"
    decoder = _decoder_name(model, names)
    outside = [name for name in linears if name != head and not name.startswith(f"{decoder}.")] if decoder else []
    for prefix in _prefixes(outside, [name for name in linears if name not in outside]):
        yield f"re:{re.escape(prefix)}(\\..*)?$", "outside the language model: a tower, or what leads from it"
    width = getattr(model.config.get_text_config(), "hidden_size_per_layer_input", None)
    for name, module in linears.items():
        if name in outside or name == head:
            continue
        parent = model.get_submodule(name.rpartition(".")[0])
        if hasattr(parent, "experts") and module.out_features <= max(_experts(parent), 1):
            yield name, "it decides among experts"
        elif hasattr(parent, "A_log") and module.out_features <= parent.A_log.numel():
            yield name, "it sets the decay of a linear attention"
        elif width and (width in (module.in_features, module.out_features) or "per_layer_model" in name):
            yield name, "it feeds per-layer embeddings"


def _decoder_name(model: Any, names: dict[int, str]) -> str | None:
    """The text decoder inside an image-text or audio-text model; None where the whole model is one."""
    if model.config.get_text_config() is model.config:
        return None
    decoder = model.get_decoder()
    return names.get(id(decoder)) or None


def _prefixes(wanted: list[str], others: list[str]) -> list[str]:
    """The shortest module names that cover all of `wanted` and none of `others`."""
    found: dict[str, None] = {}
    for name in wanted:
        parts = name.split(".")
        for length in range(1, len(parts) + 1):
            prefix = ".".join(parts[:length])
            if not any(other == prefix or other.startswith(f"{prefix}.") for other in others):
                found[prefix] = None
                break
    return list(found)


def _experts(parent: Any) -> int:
    experts = parent.experts
    return int(getattr(experts, "num_experts", 0) or (len(experts) if hasattr(experts, "__len__") else 0))


if __name__ == "__main__":
    raise SystemExit(STRUCTURE.main(structure))
