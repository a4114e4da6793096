"""Runs in vLLM's environment: prints how vLLM can quantize weights while it loads them, as one JSON object on the last
line.

    python online_probe.py [GPU ...]

The names of the GPUs are not used: they keep the answers of one machine apart from those of another.

For each name that `--quantization` takes for that: of which layers (`linear`, `moe`), and why this machine does not
compute it (null where it does). Linear layers are tried: one of them is quantized and multiplied on this very device.
Experts are not tried.
"""

from __future__ import annotations

import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any, TypedDict

# Of the layer that is tried: what every kernel takes.
WIDTH = 512
# A relative error beyond this is not that of a format with four bits and more, but of a kernel that computes otherwise.
LARGEST_ERROR = 0.25
MODEL = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": WIDTH,
    "intermediate_size": WIDTH,
    "num_hidden_layers": 1,
    "num_attention_heads": 8,
    "vocab_size": 512,
    "dtype": "bfloat16",
}


class Online(TypedDict):
    """As quantpress_serve.probes.asking.Online, which cannot be imported here."""

    linear: bool
    moe: bool
    reason: str | None


def main() -> dict[str, Online]:
    """Of each name; nothing of a vLLM that has no such names."""
    try:
        from vllm.config.quantization import _ONLINE_SHORTHANDS
    except ImportError:
        return {}
    return {
        name: {
            "linear": spec.linear is not None,
            "moe": spec.moe is not None,
            "reason": why_not(spec) if spec.linear else None,
        }
        for name, spec in _ONLINE_SHORTHANDS.items()
    }


def why_not(spec: Any) -> str | None:
    """Why this machine does not multiply by weights that are quantized so; None where it does."""
    try:
        error = error_of(spec)
    except Exception as failure:
        return f"{type(failure).__name__}: {' '.join(str(failure).split())}"[:300]
    return None if error < LARGEST_ERROR else f"its product is off by {error:.0%}"


def error_of(spec: Any) -> float:
    """The relative error of a product by a layer that vLLM made and quantized."""
    import torch
    from vllm.config import set_current_vllm_config
    from vllm.model_executor.layers.linear import ReplicatedLinear
    from vllm.model_executor.layers.quantization.online.base import OnlineQuantizationConfig
    from vllm.platforms import current_platform

    device, config = torch.device(current_platform.device_type), _config()
    dtype = config.model_config.dtype
    generator = torch.Generator().manual_seed(0)
    weight, inputs = (torch.randn(rows, WIDTH, generator=generator).to(device, dtype) for rows in (WIDTH, 8))
    with set_current_vllm_config(config), torch.no_grad():
        _alone()
        layer = ReplicatedLinear(
            *(WIDTH, WIDTH), bias=False, params_dtype=dtype, quant_config=OnlineQuantizationConfig(spec), prefix="x"
        )
        layer.weight = torch.nn.Parameter(weight.clone(), requires_grad=False)
        layer.quant_method.process_weights_after_loading(layer)
        found = layer.quant_method.apply(layer, inputs)
    exact = inputs.float() @ weight.float().t()
    return float((found.float() - exact).norm() / exact.norm())


@cache
def _config() -> Any:
    """vLLM's configuration for a small model, of which there is no more than its config.json."""
    from vllm.config import ModelConfig, VllmConfig

    folder = Path(tempfile.mkdtemp())
    (folder / "config.json").write_text(json.dumps(MODEL))
    return VllmConfig(model_config=ModelConfig(model=str(folder), skip_tokenizer_init=True, dtype="bfloat16"))


def _alone() -> None:
    """Makes this process the whole of a group, without which vLLM makes no layer."""
    from vllm.distributed.parallel_state import (
        ensure_model_parallel_initialized,
        init_distributed_environment,
        model_parallel_is_initialized,
    )
    from vllm.platforms import current_platform

    if not model_parallel_is_initialized():
        meeting = Path(tempfile.mkdtemp()) / "meeting"
        init_distributed_environment(1, 0, meeting.as_uri(), 0, current_platform.dist_backend)
        ensure_model_parallel_initialized(1, 1)


if __name__ == "__main__":
    print(json.dumps(main()))
