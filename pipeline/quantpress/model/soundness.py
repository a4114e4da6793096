"""Whether a folder holds one whole model in full precision: found before anything starts, from names and headers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from quantpress.errors import InputError
from quantpress.model.config import Config
from quantpress.model.headers import Tensor
from quantpress.runtime import foreign

ADAPTER = "adapter_config.json"
# Files in which other quantizers say what they did, beside the config.
SAID_ELSEWHERE = ("hf_quant_config.json", "quantize_config.json", "quant_config.json", "quantization_config.json")
SAID_IN_CONFIG = ("quantization_config", "compression_config")
# Names of the tensors with which each format replaces or accompanies a weight.
_STORED = re.compile(
    r"\.(weight_packed|weight_scale|weight_scale_inv|weight_scale_2|weight_zero_point|weight_shape|qweight|qzeros"
    r"|SCB|weight\.absmax|weight\.quant_map|weight\.nested_absmax|input_scale|activation_scale)$"
    r"|_(blocks|scale_inv|packed)$"
)
_NARROW = ("I8", "U8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F4", "I4", "U4")

# How stored numbers become weights again: by compressed-tensors' formats, as floats of 8 bits times a scale of a
# tensor, a channel or a block (DeepSeek, ModelOpt), or as floats of 4 bits in groups of 32 (gpt-oss).
Method = Literal["compressed-tensors", "fp8", "mxfp4"]
_MODELOPT_FP8 = ("FP8", "FP8_PER_CHANNEL_PER_TOKEN", "FP8_PB_WO")
_FORMATS = (  # of compressed-tensors 0.19, those that it can undo
    *("dense", "int-quantized", "float-quantized", "naive-quantized", "pack-quantized", "mixed-precision"),
    *("nvfp4-pack-quantized", "mxfp4-pack-quantized", "mxfp8-quantized"),
)


@dataclass(frozen=True)
class Quantization:
    """How a model is quantized already: what says so, and the method that undoes it (None where none is known).

    `details` is what the config or another quantizer's file says of it; empty where only the tensors tell.
    """

    said: str
    method: Method | None = None
    details: dict[str, Any] = field(default_factory=dict)


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
            hint="fetch model.safetensors.index.json too, or rename the file model.safetensors if it is the whole model"
            if len(found) == 1
            else "fetch model.safetensors.index.json too",
        )


def already_quantized(folder: Path, found: Quantization) -> InputError:
    """The error for a model that is quantized already, with what to do."""
    return InputError(
        f"{folder} is already quantized ({found.said}); quantizing it again would lose twice",
        hint="start from the unquantized model; where there is none, --dequantize makes 16 bits of this one first"
        if found.method
        else "start from the unquantized model, or serve this one as it is; its format cannot be dequantized here",
    )


def quantization(folder: Path, config: Config, tensors: dict[str, Tensor]) -> Quantization | None:
    """How the model is quantized already, by all places that say so; None for one that is not."""
    return _said(folder, config, tensors) or seen(tensors)


def _said(folder: Path, config: Config, tensors: dict[str, Tensor]) -> Quantization | None:
    """What config.json or another quantizer's file says."""
    if quantized := next(_in_config(config), None):
        return _understood(quantized, tensors) if isinstance(quantized, dict) else Quantization(str(quantized)[:60])
    for name in SAID_ELSEWHERE:
        if (folder / name).is_file():
            found = _understood(_read(folder / name), tensors)
            return replace(found, said=f"{name}: {found.said}")
    return None


def _in_config(config: Config, depth: int = 3) -> Iterator[Any]:
    """What stands under the keys of quantizers, in the config and in those of its parts (text_config and its kin)."""
    yield from (config[key] for key in SAID_IN_CONFIG if config.get(key))
    for part in config.values():
        if isinstance(part, dict) and depth:
            yield from _in_config(part, depth - 1)


def _read(path: Path) -> dict[str, Any]:
    try:
        data = foreign.read_json(path)
    except (OSError, ValueError):
        return {"quant_method": "unreadable"}
    return data if isinstance(data, dict) else {}


def _understood(said: dict[str, Any], tensors: dict[str, Tensor]) -> Quantization:
    """A quantizer's statement: its method's name, and whether that can be undone."""
    wrapped = [said.get(key) for key in ("quantization", *SAID_IN_CONFIG)]  # ModelOpt's, and older releases
    inner = next((part for part in wrapped if isinstance(part, dict) and part), said)
    algorithm, kind = inner.get("quant_algo"), inner.get("quant_method")
    if kind == "compressed-tensors" or (kind is None and "config_groups" in inner):
        return _compressed_tensors(inner)
    if algorithm:  # ModelOpt
        return Quantization(f"ModelOpt {algorithm}"[:60], "fp8" if algorithm in _MODELOPT_FP8 else None, inner)
    name = str(next(filter(None, (kind, inner.get("bits"))), "unknown method"))[:60]
    if kind == "fp8" and (not tensors or any(re.search(r"(_scale_inv|\.scale)$", tensor) for tensor in tensors)):
        return Quantization(name, "fp8", inner)
    return Quantization(name, "mxfp4" if kind == "mxfp4" else None, inner)


def _compressed_tensors(said: dict[str, Any]) -> Quantization:
    stored, sparse = said.get("format"), said.get("sparsity_config")
    name = f"compressed-tensors, {stored}"[:60] if stored else "compressed-tensors"
    if _groups(said.get("transform_config")):
        return Quantization(f"{name}, with rotations that run while serving")
    if isinstance(sparse, dict) and sparse.get("format") not in (None, "dense"):
        return Quantization(f"compressed-tensors, {sparse['format']}"[:60])
    known = stored in _FORMATS or (stored is None and _groups(said))
    return Quantization(name, "compressed-tensors" if known else None, said)


def _groups(said: Any) -> bool:
    return isinstance(said, dict) and bool(said.get("config_groups"))


def seen(tensors: dict[str, Tensor]) -> Quantization | None:
    """What the tensors say: the first one that only a quantized model has."""
    for name, tensor in tensors.items():
        if _STORED.search(name):
            return Quantization(f"it holds {name}", _seen_method(name, tensors))
        if tensor.dtype in _NARROW and len(tensor.shape) >= 2:
            return Quantization(f"{name} is {tensor.dtype}", _seen_method(name, tensors))
    return None


def _seen_method(name: str, tensors: dict[str, Tensor]) -> Method | None:
    """The method where the tensors alone are clear: integers and packed ones mean what a config says of them."""
    if name.endswith("_blocks"):
        return "mxfp4" if f"{name.removesuffix('_blocks')}_scales" in tensors else None
    narrow = {tensor.dtype for tensor in tensors.values() if tensor.dtype in _NARROW and len(tensor.shape) >= 2}
    scaled = any(other.endswith(("_scale_inv", ".weight_scale")) for other in tensors)
    return "fp8" if scaled and narrow and narrow <= {"F8_E4M3", "F8_E5M2", "F8_E8M0"} else None
