"""A model's tensors from its config.json alone, for planning before its weights are there.

Shapes follow the checkpoints of the families below; a test compares them with transformers' own models.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from quantpress.errors import InputError
from quantpress.model import headers
from quantpress.model.config import Config, tied
from quantpress.model.headers import Tensor

_DTYPES = {"float32": ("F32", 4), "float16": ("F16", 2), "bfloat16": ("BF16", 2)}
_PLAIN = ("llama", "mistral", "qwen2", "qwen3", "granite", "gemma2", "phi3", "mixtral", "qwen2_moe", "qwen3_moe")
_BIASED = ("qwen2", "qwen2_moe")  # on q, k and v, whatever their config says
_NORMED_HEADS = ("qwen3", "qwen3_moe")


def is_plain(config: Config) -> bool:
    """Whether the names and shapes of its tensors tell what a model is made of: a decoder of Linear layers alone."""
    return config.get("model_type") in _PLAIN and "text_config" not in config


def tensors(folder: Path, config: Config) -> dict[str, Tensor]:
    """Tensors by name: from the safetensors headers where the files are there, else from the config.

    Raises InputError where neither says.
    """
    if list(folder.glob("*.safetensors")):
        return headers.read_folder(folder)
    kind = config.get("model_type")
    if kind not in _PLAIN:
        raise InputError(
            f"{folder} holds no *.safetensors, and config.json alone does not tell the shapes of a {kind!r}",
            hint=f"fetch the weights; known from the config alone: {', '.join(_PLAIN)}",
        )
    dtype, size = _DTYPES.get(str(config.get("dtype") or config.get("torch_dtype")), ("BF16", 2))
    try:
        shapes = dict(_shapes(kind, _Sizes(config), config))
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise InputError(
            f"{folder}/config.json lacks a size or misstates one: {error!r}", hint="fetch it again"
        ) from error
    return {name: _tensor(dtype, size, shape) for name, shape in shapes.items()}


def _tensor(dtype: str, size: int, shape: tuple[int, ...]) -> Tensor:
    for dimension in shape:
        size *= dimension
    return Tensor(dtype, shape, size)


class _Sizes:
    def __init__(self, config: Config) -> None:
        self.hidden = _count(config, "hidden_size")
        self.vocab = _count(config, "vocab_size")
        self.layers = _count(config, "num_hidden_layers")
        heads = _count(config, "num_attention_heads")
        head_dim = config.get("head_dim") or self.hidden // heads
        self.query = heads * int(head_dim)
        self.key = (config.get("num_key_value_heads") or heads) * int(head_dim)
        self.head_dim = int(head_dim)
        self.intermediate = _count(config, "intermediate_size")


def _count(config: Config, key: str) -> int:
    value = config[key]
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 10**7:
        raise ValueError(f"{key} is {str(value)[:40]}")
    return value


def _shapes(kind: str, sizes: _Sizes, config: Config) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield "model.embed_tokens.weight", (sizes.vocab, sizes.hidden)
    for number in range(sizes.layers):
        prefix = f"model.layers.{number}"
        yield from _attention(kind, sizes, config, f"{prefix}.self_attn")
        yield from _feed_forward(kind, sizes, config, prefix, number)
        norms = ["input_layernorm", "post_attention_layernorm"]
        if kind == "gemma2":
            norms += ["pre_feedforward_layernorm", "post_feedforward_layernorm"]
        for norm in norms:
            yield f"{prefix}.{norm}.weight", (sizes.hidden,)
    yield "model.norm.weight", (sizes.hidden,)
    if not tied(config):
        yield "lm_head.weight", (sizes.vocab, sizes.hidden)


def _attention(kind: str, sizes: _Sizes, config: Config, prefix: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    if kind == "phi3":
        yield f"{prefix}.qkv_proj.weight", (sizes.query + 2 * sizes.key, sizes.hidden)
        yield f"{prefix}.o_proj.weight", (sizes.hidden, sizes.query)
        return
    biased = kind in _BIASED if kind != "qwen2_moe" else bool(config.get("qkv_bias", True))
    biased = biased or bool(config.get("attention_bias"))
    for name, outputs in (("q_proj", sizes.query), ("k_proj", sizes.key), ("v_proj", sizes.key)):
        yield f"{prefix}.{name}.weight", (outputs, sizes.hidden)
        if biased:
            yield f"{prefix}.{name}.bias", (outputs,)
    yield f"{prefix}.o_proj.weight", (sizes.hidden, sizes.query)
    if config.get("attention_bias") and kind not in _BIASED:
        yield f"{prefix}.o_proj.bias", (sizes.hidden,)
    if kind in _NORMED_HEADS:
        yield f"{prefix}.q_norm.weight", (sizes.head_dim,)
        yield f"{prefix}.k_norm.weight", (sizes.head_dim,)


def _feed_forward(
    kind: str, sizes: _Sizes, config: Config, prefix: str, number: int
) -> Iterator[tuple[str, tuple[int, ...]]]:
    hidden, width = sizes.hidden, sizes.intermediate
    if kind == "mixtral":
        block = f"{prefix}.block_sparse_moe"
        yield f"{block}.gate.weight", (_count(config, "num_local_experts"), hidden)
        for expert in range(_count(config, "num_local_experts")):
            for name, shape in (("w1", (width, hidden)), ("w2", (hidden, width)), ("w3", (width, hidden))):
                yield f"{block}.experts.{expert}.{name}.weight", shape
    elif kind.endswith("_moe") and _is_sparse(config, number):
        inner = _count(config, "moe_intermediate_size")
        experts = _count(config, "num_experts" if "num_experts" in config else "num_local_experts")
        yield f"{prefix}.mlp.gate.weight", (experts, hidden)
        for expert in range(experts):
            yield from _mlp(f"{prefix}.mlp.experts.{expert}", hidden, inner)
        if kind == "qwen2_moe":
            yield from _mlp(f"{prefix}.mlp.shared_expert", hidden, _count(config, "shared_expert_intermediate_size"))
            yield f"{prefix}.mlp.shared_expert_gate.weight", (1, hidden)
    elif kind == "phi3":
        yield f"{prefix}.mlp.gate_up_proj.weight", (2 * width, hidden)
        yield f"{prefix}.mlp.down_proj.weight", (hidden, width)
    else:
        yield from _mlp(f"{prefix}.mlp", hidden, width, bool(config.get("mlp_bias")))


def _is_sparse(config: Config, number: int) -> bool:
    step = config.get("decoder_sparse_step", 1)
    return number not in (config.get("mlp_only_layers") or []) and (number + 1) % step == 0


def _mlp(prefix: str, hidden: int, width: int, biased: bool = False) -> Iterator[tuple[str, tuple[int, ...]]]:
    for name, shape in (("gate_proj", (width, hidden)), ("up_proj", (width, hidden)), ("down_proj", (hidden, width))):
        yield f"{prefix}.{name}.weight", shape
        if biased:
            yield f"{prefix}.{name}.bias", shape[:1]
