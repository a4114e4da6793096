"""The class that holds a whole checkpoint, for all workers that load one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from quantpress.errors import InputError, StageError, first_line

_BY_VLLM = "score it in the engine that will serve it: --backend vllm"
_ONE_BY_ONE = re.compile(r"\.experts\.\*\.(?P<name>\w+)\.weight$")
_EXPERT_PARTS = {"gate_up_proj": ("gate_proj", "up_proj"), "up_proj": ("up_proj",), "down_proj": ("down_proj",)}


@contextmanager
def remote_code_explained(model: str) -> Iterator[None]:
    """Turns transformers' refusal to run a model's own code into an error that names the option."""
    try:
        yield
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        raise InputError(
            f"{model} brings Python code of its own, which is not run",
            hint="read that code; if you trust it, add --trust-remote-code",
        ) from error


def whole_class(config: Any) -> Any:
    """The class of transformers that holds the whole checkpoint: the one that its config names.

    AutoModelForCausalLM would load the language model of an image-text model alone, or nothing of it. Models with code
    of their own are not in transformers, and None is returned.
    """
    import transformers

    return next((found for name in config.architectures or [] if (found := getattr(transformers, name, None))), None)


def whole_model(folder: Path | str, trust_remote_code: bool, **options: Any) -> Any:
    """The model in that class, from its folder; `options` are those of `from_pretrained`.

    Raises StageError where transformers does not load all of it. It reads some checkpoints wrongly (experts in 8 bits
    fail, and experts that were left in 16 bits beside quantized layers are made up, with a line in its log).
    """
    try:
        model, missing = loaded_model(folder, trust_remote_code, **options)
    except (RuntimeError, ValueError, AttributeError) as error:  # the last one for embeddings that are quantized
        if "trust_remote_code" in str(error):
            raise
        raise StageError(f"transformers cannot load {folder}: {first_line(error)}", hint=_BY_VLLM) from error
    if missing:
        raise StageError(
            f"transformers does not find {len(missing)} weights in {folder} and would make them up: "
            f"{', '.join(missing[:3])}",
            hint=_BY_VLLM,
        )
    return model


def placed_model(folder: Path | str, trust_remote_code: bool, device: str, **options: Any) -> Any:
    """`whole_model` on this device (`cpu`, `cuda`); where there are several GPUs, in parts on all of them."""
    import torch

    if device == "cuda" and torch.cuda.device_count() > 1:
        return whole_model(folder, trust_remote_code, device_map="auto", **options)
    return whole_model(folder, trust_remote_code, **options).to(device)


def loaded_model(folder: Path | str, trust_remote_code: bool, **options: Any) -> tuple[Any, list[str]]:
    """The model, and the parameters that its files do not hold: transformers makes them up."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    kind = whole_class(config) or AutoModelForCausalLM
    options |= {"trust_remote_code": trust_remote_code, "use_safetensors": True, "output_loading_info": True}
    model, info = kind.from_pretrained(folder, **options)
    return model, sorted(info["missing_keys"])


def empty_model(config: Any, trust_remote_code: bool) -> Any:
    """The model on torch's meta device, where no tensor holds a number."""
    import torch
    from transformers import AutoModelForCausalLM

    kind = whole_class(config)
    with torch.device("meta"):
        return kind(config) if kind else AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)


def text_decoder(model: Any) -> Any:
    """The text decoder of the model, which is all of a plain one."""
    return model.get_decoder() if hasattr(model, "get_decoder") else model


def keep_expert_names(model: Any) -> None:
    """Has experts saved under the names that the files of their family give them one by one, such as Mixtral's w1.

    transformers' conversion says of which parts it makes its tensors of experts. llmcompressor 0.14 takes these apart
    into gate_proj, up_proj and down_proj, and would save them so.
    """
    from transformers.core_model_loading import WeightConverter, WeightRenaming

    conversions = getattr(model, "_weight_conversions", None) or []
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
