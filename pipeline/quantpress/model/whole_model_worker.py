"""The class that holds a whole checkpoint, for all workers that load one."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def whole_class(config: Any) -> Any:
    """The class of transformers that holds the whole checkpoint: the one that its config names.

    AutoModelForCausalLM would load the language model of an image-text model alone, or nothing of it. Models with code
    of their own are not in transformers, and None is returned.
    """
    import transformers

    return next((found for name in config.architectures or [] if (found := getattr(transformers, name, None))), None)


def whole_model(folder: Path | str, trust_remote_code: bool, **options: Any) -> Any:
    """The model in that class, from its folder; `options` are those of `from_pretrained`."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    kind = whole_class(config) or AutoModelForCausalLM
    return kind.from_pretrained(folder, trust_remote_code=trust_remote_code, use_safetensors=True, **options)


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
