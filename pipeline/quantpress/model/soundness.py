"""Whether a folder holds one whole model in full precision: found before anything starts, from names and headers."""

from __future__ import annotations

import json
import re
from pathlib import Path

from quantpress.errors import InputError
from quantpress.model import headers
from quantpress.model.config import Config, text_config
from quantpress.model.headers import Tensor

ADAPTER = "adapter_config.json"
# Files in which other quantizers say what they did, beside the config.
_SAID_ELSEWHERE = ("hf_quant_config.json", "quantize_config.json", "quant_config.json", "quantization_config.json")
# Names of the tensors with which each format replaces or accompanies a weight.
_STORED = re.compile(
    r"\.(weight_packed|weight_scale|weight_scale_inv|weight_scale_2|weight_zero_point|weight_shape|qweight|qzeros"
    r"|SCB|weight\.absmax|weight\.quant_map|weight\.nested_absmax|input_scale|activation_scale)$"
    r"|_(blocks|scale_inv)$"
)
_NARROW = ("I8", "U8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F4", "I4", "U4")


def require_whole(folder: Path) -> None:
    """Raises InputError for an adapter, and for weights in files that transformers would not find."""
    index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
    if index.is_file() or single.is_file():
        return
    if (folder / ADAPTER).is_file():
        raise InputError(
            f"{folder} holds an adapter ({ADAPTER}), not a model",
            hint="merge it into its base model and save that: peft's merge_and_unload(), then save_pretrained(FOLDER)",
        )
    if found := sorted(path.name for path in folder.glob("*.safetensors")):
        shards = f"{found[0]} and {len(found) - 1} more" if len(found) > 1 else found[0]
        raise InputError(
            f"{folder} holds {shards}, but neither model.safetensors nor model.safetensors.index.json, "
            "which says what lies in which file",
            hint="fetch model.safetensors.index.json too",
        )


def require_unquantized(folder: Path, config: Config, tensors: dict[str, Tensor] | None = None) -> None:
    """Raises InputError for a model that is quantized already, by its config, a file beside it, or its tensors."""
    if said := _said(folder, config) or _seen(tensors or {}):
        raise InputError(
            f"{folder} is already quantized ({said}); quantizing it again would lose twice",
            hint="start from the unquantized model, or serve this one as it is",
        )


def _said(folder: Path, config: Config) -> str | None:
    """What config.json or another quantizer's file says."""
    for part in (config, text_config(config)):
        for key in ("quantization_config", "compression_config"):
            if quantized := part.get(key):
                return str(quantized.get("quant_method", "unknown") if isinstance(quantized, dict) else quantized)
    for name in _SAID_ELSEWHERE:
        if (folder / name).is_file():
            return f"{name}: {_method(folder / name)}"
    return None


def _method(path: Path) -> str:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return "unreadable"
    inner = data.get("quantization", data) if isinstance(data, dict) else {}
    known = [inner.get(key) for key in ("quant_algo", "quant_method", "bits")] if isinstance(inner, dict) else []
    return str(next(filter(None, known), "unknown method"))[:60]


def _seen(tensors: dict[str, Tensor]) -> str | None:
    """The first tensor that only a quantized model has."""
    for name, tensor in tensors.items():
        if _STORED.search(name):
            return f"it holds {name}"
        if tensor.dtype in _NARROW and len(tensor.shape) >= 2:
            return f"{name} is {tensor.dtype}"
    return None


def stored_tensors(folder: Path) -> dict[str, Tensor] | None:
    """The headers of the folder's weights; None for one that holds no weights (yet)."""
    return headers.read_folder(folder) if list(folder.glob("*.safetensors")) else None
