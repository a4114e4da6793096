"""Bytes: of a layer in each storage format of compressed-tensors, of the KV cache, and who can split a model."""

from __future__ import annotations

from math import ceil
from typing import Protocol

from quantpress.model.config import Config, number_in, text_config
from quantpress.model.layers import Layers, Shape
from quantpress.recipe.presets import Scheme


class Loadable(Protocol):
    """What of a checkpoint decides where it fits: a plan's, or one that was adopted. Bytes of the unquantized model's
    weights and of its own, and how its layers are stored."""

    @property
    def weight_bytes(self) -> int: ...
    @property
    def checkpoint_bytes(self) -> int: ...
    @property
    def schemes(self) -> dict[str, Scheme]: ...
    @property
    def structure(self) -> Layers: ...


def layer_bytes(shape: Shape, scheme: Scheme, dtype_bytes: int = 2) -> int:
    """Bytes of one Linear layer's weight, scales and zero points as compressed-tensors 0.19 stores them.

    `dtype_bytes` is the size of the model's own numbers, which integer and FP8 scales are kept in.
    """
    rows, columns = shape
    if scheme.kind == "float" and scheme.weight_bits == 4:
        globals_ = 4 * (1 + (scheme.activations == "static")) if scheme.has_tensor_scale else 0
        return rows * ceil(columns / 2) + rows * (columns // (scheme.group_size or 16)) + globals_
    scales = _scales(shape, scheme)
    if scheme.kind == "float":
        scale_bytes = 1 if scheme.group_size == 32 else dtype_bytes
        return rows * columns + scales * scale_bytes + _static_bytes(scheme, dtype_bytes)
    if scheme.weight_bits == 8 and scheme.activations != "none":
        return rows * columns + scales * dtype_bytes + _static_bytes(scheme, dtype_bytes)
    packed = rows * ceil(columns * scheme.weight_bits / 32) * 4 + 16  # 16: the original shape, two int64
    zero_points = 0 if scheme.symmetric else ceil(rows * scheme.weight_bits / 32) * 4 * (scales // rows)
    return packed + scales * dtype_bytes + zero_points


def _static_bytes(scheme: Scheme, dtype_bytes: int) -> int:
    return dtype_bytes if scheme.activations == "static" else 0


def _scales(shape: Shape, scheme: Scheme) -> int:
    rows, columns = shape
    if scheme.strategy == "tensor":
        return 1
    if scheme.strategy == "block" and scheme.block:
        return ceil(rows / scheme.block[0]) * ceil(columns / scheme.block[1])
    return rows * (ceil(columns / scheme.group_size) if scheme.group_size else 1)


def latent_rank(config: Config) -> int:
    """The width of the vector that multi-head latent attention keeps for all heads of a layer; 0 for any other."""
    return number_in(text_config(config), "kv_lora_rank")


def kv_cache_bytes(config: Config, context: int, concurrency: int, element_bytes: int = 2) -> int | None:
    """Bytes of the KV cache for `concurrency` sequences of `context` tokens; None where the config does not say.

    Layers with a sliding window or without attention need less: this is an upper bound.
    """
    text = text_config(config)
    layers, heads = number_in(text, "num_hidden_layers"), number_in(text, "num_attention_heads")
    if rank := latent_rank(config):
        width = rank + number_in(text, "qk_rope_head_dim")
    else:
        head_dim = number_in(text, "head_dim") or number_in(text, "hidden_size") // (heads or 1)
        width = 2 * (number_in(text, "num_key_value_heads") or heads) * head_dim
    return layers * width * element_bytes * context * concurrency or None


# Multi-head latent attention's first projections, which vLLM keeps whole on every GPU, as it does a sparse attention's
# indexer.
_WHOLE_EVERYWHERE = ("q_a_proj", "kv_a_proj_with_mqa", "fused_qkv_a_proj")
_SPLIT_BY_INPUT = ("o_proj", "down_proj", "w2", "dense", "dense_4h_to_h", "fc2", "out_proj")


def tensor_parallel_sizes(
    config: Config, schemes: dict[str, Scheme], shapes: dict[str, Shape], largest: int = 16
) -> list[int]:
    """The numbers of GPUs, powers of two, over which vLLM can split every quantized layer and the attention heads."""
    text = text_config(config)
    heads = number_in(text, "num_attention_heads")
    kv_heads = number_in(text, "num_key_value_heads") or heads
    sizes = [2**power for power in range(largest.bit_length())]
    return [
        size
        for size in sizes
        if (not heads or (heads % size == 0 and (kv_heads % size == 0 or size % kv_heads == 0)))
        and all(
            _splits(name, shapes[name], scheme, size, min(size, kv_heads or size)) for name, scheme in schemes.items()
        )
    ]


def _splits(name: str, shape: Shape, scheme: Scheme, size: int, kv_size: int) -> bool:
    last = name.rpartition(".")[2]
    if last in _WHOLE_EVERYWHERE or ".indexer." in name:
        return True
    step = scheme.group_size or 1
    if last in _SPLIT_BY_INPUT:
        if scheme.block and size > 1:
            step = scheme.block[1]
        return shape[1] % (size * step) == 0
    parts = kv_size if last in ("k_proj", "v_proj") else size
    block = scheme.block[0] if scheme.block and parts > 1 else 1
    return shape[0] % (parts * block) == 0
