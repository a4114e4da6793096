"""Builds a model on torch's meta device, where no tensor holds a number, and writes down what it is made of."""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from quantpress.errors import InputError, first_line
from quantpress.model.headers import Tensor
from quantpress.model.names_worker import SavedNames, parameters_of
from quantpress.model.rescalings_worker import rescalings
from quantpress.model.structure import STRUCTURE, Linear, Structure, StructureJob
from quantpress.model.whole_model_worker import empty_model, keep_expert_names

_DTYPES = {"F32": "float32", "F16": "float16", "F64": "float64"}  # others are counted in, not computed with


def structure(job: StructureJob) -> Structure:
    """Raises InputError where transformers cannot build the model, or its weights are not what its config says."""
    import torch

    files = job.tensors
    ask_each_class_once()
    with _without_numbers():
        model, missing = loaded_shapes(job)
        belongs = parameters_of(model, files)
        before = SavedNames(model)
        saved = {name: before.names(name, tensor) for name, tensor in model.state_dict().items()}
        shapes = {name: list(files[name].shape) for name in belongs} or _shapes_saved(model)
        fused = [stored for name in _fused_experts(model) for stored in saved[name]]
        linearize(model)
        keep_expert_names(model)
    modules, after = dict(model.named_modules()), SavedNames(model)
    linears = {name: module for name, module in modules.items() if isinstance(module, torch.nn.Linear)}
    embeddings = {name: module for name, module in modules.items() if isinstance(module, torch.nn.Embedding)}
    tied = _tied(model, linears)
    _require_all(missing, tied, job.folder)
    classes = {name: type(module).__name__ for name, module in modules.items() if name}
    rest = [name for name in classes if name not in linears and name not in embeddings]
    others = {name: classes[name] for name in rest if _has_weight(modules[name])}
    decoder = _decoder_name(model)
    return Structure(
        model_class=type(model).__name__,
        linears={name: _linear(after, name, module) for name, module in linears.items()},
        embeddings={name: _linear(after, name, module) for name, module in embeddings.items()},
        others=others,
        containers={name: classes[name] for name in rest if name not in others},
        special={
            name: classes[name] for name in (*linears, *embeddings) if classes[name] not in ("Linear", "Embedding")
        },
        bases={kind.__name__: _bases(kind) for kind in {type(module) for module in modules.values()}},
        routers=[
            f"{after.of_module(name, modules[name])}.weight"
            for name in (*linears, *others)
            if _is_router(modules, name)
        ],
        tied=tied,
        tensors=shapes,
        not_loaded=sorted(files.keys() - belongs.keys()),
        renamed=_renamed(belongs, saved),
        fused_experts=sorted(fused),
        left_alone=dict(_left_alone(model, modules, linears, decoder)),
        rescalings=rescalings(model, decoder, job.rescalings),
        linked_otherwise=_linked_otherwise(modules, {name: after.of_module(name, linears[name]) for name in linears}),
        note=f"{type(model).__name__}, {len(linears)} Linear layers",
    )


def loaded_shapes(job: StructureJob) -> tuple[Any, list[str]]:
    """The model on the meta device, loaded with the shapes of the job's tensors, and the parameters that these lack.

    Loading is transformers' own: the model then knows how it was renamed, and will be saved under these names.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(job.folder, trust_remote_code=job.trust_remote_code)
        empty = empty_model(config, job.trust_remote_code)
        if not job.tensors:
            empty._weight_conversions = _conversions(empty)
            return empty, []
        model, report = type(empty).from_pretrained(
            None,
            config=config,
            state_dict={name: _empty(tensor) for name, tensor in job.tensors.items()},
            device_map="meta",
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except Exception as error:  # the config is of others, and each family's code stumbles over it in its own way
        raise InputError(
            f"transformers cannot build the model that {job.folder}/config.json describes: "
            f"{first_line(error.__cause__ or error)}",
            hint="look at the config; code that a model brings runs with --trust-remote-code only",
        ) from error
    if wrong := sorted(report["mismatched_keys"]):
        name, found, described = wrong[0]
        raise InputError(
            f"{name} has the shape {tuple(found)} in the files, and {tuple(described)} by {job.folder}/config.json",
            hint="fetch the model again: its config and its weights are not of one model",
        )
    model.config._name_or_path = job.folder  # transformers says "None", which llmcompressor looks for on the hub
    return model, sorted(report["missing_keys"])


def _conversions(model: Any) -> list[Any]:
    """How a model that was loaded from nowhere is renamed when it is saved, as transformers has it: asked once, since
    it looks through all modules for every answer."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import PrefixChange

    return [one for one in get_model_conversion_mapping(model, add_legacy=False) if not isinstance(one, PrefixChange)]


def _empty(tensor: Tensor) -> Any:
    import torch

    return torch.empty(tensor.shape, dtype=getattr(torch, _DTYPES.get(tensor.dtype, "bfloat16")), device="meta")


def _require_all(missing: list[str], tied: str | None, folder: str) -> None:
    lacking = [name for name in missing if not (tied and name.endswith("lm_head.weight"))]
    if lacking:
        raise InputError(
            f"{folder}/config.json describes {len(lacking)} tensors that its files do not hold: "
            f"{', '.join(lacking[:3])}",
            hint="fetch the model again: its config and its weights are not of one model",
        )


def _renamed(belongs: dict[str, str], saved: dict[str, list[str]]) -> dict[str, str]:
    """The tensors of the files that a checkpoint has under another name, with that name."""
    return {
        name: saved[parameter][0]
        for name, parameter in belongs.items()
        if len(saved[parameter]) == 1 and saved[parameter][0] != name
    }


def _shapes_saved(model: Any) -> dict[str, list[int]]:
    """The shapes of the tensors that the model would be saved as."""
    from transformers.core_model_loading import revert_weight_conversion

    state = {name: tensor for name, tensor in model.state_dict().items()}
    head = model.get_output_embeddings()
    if head is not None and _tied(model, None):
        state.pop(next(name for name, module in model.named_modules() if module is head) + ".weight", None)
    return {name: list(tensor.shape) for name, tensor in revert_weight_conversion(model, state).items()}


def _linked_otherwise(modules: dict[str, Any], stored: dict[str, str]) -> list[str]:
    """The layers, of those that are `stored` under these names, which share a scale with other layers where
    llmcompressor sees the model (by modules) than where it sees the files alone (by patterns of their names)."""
    from llmcompressor.entrypoints.model_free.microscale import get_fused_names
    from llmcompressor.observers.helpers import FUSED_LAYER_NAMES

    candidates = ([f"{name}.{part}" for part in parts] for name in modules for parts in FUSED_LAYER_NAMES)
    by_modules = {frozenset(stored[layer] for layer in group) for group in candidates if stored.keys() >= set(group)}
    try:
        linked, _ = get_fused_names([f"{name}.weight" for name in stored.values()])
    except ValueError:  # names that its patterns cannot part into sets
        return sorted(stored.values())
    by_names = {frozenset(str(name).removesuffix(".weight") for name in group.values()) for group in linked}
    return sorted(frozenset[str]().union(*(by_modules ^ by_names)))


def _linear(saved: SavedNames, name: str, module: Any) -> Linear:
    outputs, inputs = module.weight.shape
    return Linear(outputs=outputs, inputs=inputs, stored=saved.of_module(name, module))


def _bases(kind: type) -> list[str]:
    """The names by which compressed-tensors knows a class: its own, and those that it is derived from."""
    import torch

    return [base.__name__ for base in kind.__mro__ if issubclass(base, torch.nn.Module)]


def _has_weight(module: Any) -> bool:
    return any(True for _ in module.parameters(recurse=False))


def _fused_experts(model: Any) -> Iterator[str]:
    """The parameters of every module that llmcompressor would take apart into experts."""
    from llmcompressor.modeling.moe.linearize import get_non_linearized_moes

    for name, module in get_non_linearized_moes(model):
        yield from (f"{name}.{parameter}" for parameter, _ in module.named_parameters(recurse=False))


def ask_each_class_once() -> None:
    """llmcompressor reads the source of a class of experts anew for every layer that has them."""
    from llmcompressor.modeling.moe import helpers, linear_experts

    asked = helpers.get_use_experts_implementation_args
    if not hasattr(asked, "cache_info"):
        helpers.get_use_experts_implementation_args = cache(asked)
        linear_experts.get_use_experts_implementation_args = helpers.get_use_experts_implementation_args


def linearize(model: Any) -> None:
    """Takes fused experts apart as `oneshot` will. Raises InputError where llmcompressor cannot."""
    import torch
    from llmcompressor.modeling.moe.linearize import linearize_moe

    ask_each_class_once()
    _offload_nothing()
    try:
        with torch.device("meta"):
            linearize_moe(model)
    except Exception as error:  # whatever a family's experts are made of
        raise InputError(
            f"llmcompressor cannot take the experts of {type(model).__name__} apart: {first_line(error)}",
            hint="take a model of another family, or a newer llmcompressor",
        ) from error


def _offload_nothing() -> None:
    """On the meta device there is nothing to offload. Each file of llmcompressor's that takes experts apart (llama4.py
    too) has the two functions by its own names."""
    from llmcompressor.modeling.moe.linear_experts import LinearExperts2D

    LinearExperts2D.get_registration(object)  # imports these files
    instead: dict[str, Any] = {"get_cache_init_kwargs": lambda *_: {}, "offload_module": lambda *_, **__: None}
    for file in [file for name, file in sys.modules.items() if name.startswith("llmcompressor.modeling.moe.")]:
        for name in instead.keys() & vars(file).keys():
            setattr(file, name, instead[name])


@contextmanager
def _without_numbers() -> Iterator[None]:
    """Layers are made without their random numbers, which take a third of the time that a mixture of experts takes."""
    import torch

    kinds = (torch.nn.Linear, torch.nn.Embedding)
    before = [kind.reset_parameters for kind in kinds]
    for kind in kinds:
        kind.reset_parameters = lambda self: None
    try:
        yield
    finally:
        for kind, method in zip(kinds, before, strict=True):
            kind.reset_parameters = method


def _tied(model: Any, linears: Collection[str] | None) -> str | None:
    """The embedding whose weight lm_head shares; `linears` are the names that lm_head has to be among."""
    output, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    names = {id(module): name for name, module in model.named_modules()}
    if output is None or embedding is None or (linears is not None and names.get(id(output)) not in linears):
        return None
    tied = getattr(model.config.get_text_config(), "tie_word_embeddings", False) or model.config.tie_word_embeddings
    return names.get(id(embedding)) if tied else None


def _left_alone(
    model: Any, modules: dict[str, Any], linears: dict[str, Any], decoder: str | None
) -> Iterator[tuple[str, str]]:
    """Patterns for `ignore`, and why: what publishers of quantized models of these families keep in 16 bits.

    All of it is read off the model: what lies outside the text decoder, what decides among experts, what sets the decay
    of a linear attention, what feeds per-layer embeddings.
    """
    names = {id(module): name for name, module in modules.items()}
    output = model.get_output_embeddings()
    head = names.get(id(output)) if output is not None else None
    if head in linears:
        yield str(head), "the output head"
    outside = {name for name in linears if name != head and not name.startswith(f"{decoder}.")} if decoder else set()
    for prefix in _prefixes([name for name in linears if name in outside], linears.keys() - outside):
        yield f"re:{re.escape(prefix)}(\\..*)?$", "outside the language model: a tower, or what leads from it"
    width = getattr(model.config.get_text_config(), "hidden_size_per_layer_input", None)
    for name, module in linears.items():
        if name in outside or name == head:
            continue
        parent = modules[name.rpartition(".")[0]]
        if _is_router(modules, name):
            yield name, "it decides among experts"
        elif hasattr(parent, "A_log") and module.out_features <= parent.A_log.numel():
            yield name, "it sets the decay of a linear attention"
        elif width and (width in (module.in_features, module.out_features) or "per_layer_model" in name):
            yield name, "it feeds per-layer embeddings"


def _decoder_name(model: Any) -> str | None:
    """The text decoder inside an image-text or audio-text model; None where the whole model is one."""
    if model.config.get_text_config() is model.config:
        return None
    decoder = model.get_decoder()
    return next((name for name, module in model.named_modules() if module is decoder), None) or None


def _prefixes(wanted: Iterable[str], others: Iterable[str]) -> list[str]:
    """The shortest module names that cover all of `wanted` and none of `others`."""
    taken = {prefix for name in others for prefix in _upwards(name)}
    return list(dict.fromkeys(next((one for one in _upwards(name) if one not in taken), name) for name in wanted))


def _upwards(name: str) -> list[str]:
    """The modules that a module lies in, from the outside inwards, and itself."""
    parts = name.split(".")
    return [".".join(parts[:length]) for length in range(1, len(parts) + 1)]


def _is_router(modules: dict[str, Any], name: str) -> bool:
    """Whether a module beside experts gives as many numbers as there are experts, or fewer: a shared expert's gate."""
    parent, weight = modules[name.rpartition(".")[0]], getattr(modules[name], "weight", None)
    if not hasattr(parent, "experts") or weight is None or weight.ndim != 2:
        return False
    return bool(weight.shape[0] <= max(_experts(parent), 1))


def _experts(parent: Any) -> int:
    experts = parent.experts
    return int(getattr(experts, "num_experts", 0) or (len(experts) if hasattr(experts, "__len__") else 0))


if __name__ == "__main__":
    raise SystemExit(STRUCTURE.main(structure))
