"""Runs in vLLM's environment: which kernels vLLM chooses at each compute capability, by its own functions.

Arguments: compute capabilities (75 ...). Prints one JSON object on its last line: for each of them, by kind of layer
the name of the kernel without FlashInfer and with it, or "no: ..." with vLLM's reason. The platform is imitated, and
what the CUDA library says of itself, as its source has it: CUTLASS FP8 from 8.9 on, in blocks from 9.0 on, FP4 from
10.0 on. DeepGEMM is left out.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any
from unittest import mock

import torch
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.model_executor.kernels import linear
from vllm.model_executor.kernels.linear import MPLinearLayerConfig, mxfp4, mxfp8, nvfp4, scaled_mm
from vllm.model_executor.layers.quantization.utils import nvfp4_utils, w8a8_utils
from vllm.model_executor.layers.quantization.utils.quant_utils import (
    kFp8Dynamic128Sym,
    kFp8DynamicTokenSym,
    kFp8Static128BlockSym,
    kFp8StaticChannelSym,
    kFp8StaticTensorSym,
    kMxfp4Dynamic,
)
from vllm.platforms import PlatformEnum, current_platform
from vllm.platforms.interface import DeviceCapability
from vllm.scalar_type import scalar_types

INPUTS, OUTPUTS = 1024, 2048


def packed(weight: Any, group: int, activations: torch.dtype = torch.bfloat16, zero_points: bool = False) -> str:
    """The kernel of weights of this type in groups."""
    config = MPLinearLayerConfig(
        full_weight_shape=(INPUTS, OUTPUTS),
        partition_weight_shape=(INPUTS, OUTPUTS),
        weight_type=weight,
        act_type=activations,
        group_size=group,
        zero_points=zero_points,
        out_type=torch.bfloat16,
    )
    return str(linear.choose_mp_linear_kernel(config).__name__)


def scaled(config: Any, kernels: dict[Any, Any]) -> str:
    return str(linear.choose_scaled_mm_linear_kernel(config, kernels, quantization="any").__name__)


def int8() -> str:
    config = linear.Int8ScaledMMLinearLayerConfig(
        is_static_input_scheme=False, is_channelwise=True, input_symmetric=True
    )
    return scaled(config, linear._POSSIBLE_INT8_KERNELS)


def fp8(weights: Any, activations: Any, kernels: dict[Any, Any]) -> str:
    config = linear.FP8ScaledMMLinearLayerConfig(
        weight_quant_key=weights,
        activation_quant_key=activations,
        weight_shape=(OUTPUTS, INPUTS),
        input_dtype=torch.bfloat16,
        out_dtype=torch.bfloat16,
    )
    return scaled(config, kernels)


def made(make: Callable[[], Any]) -> str:
    """The class of the kernel that a function of vLLM's makes; its constructor may need a GPU, its name does not."""
    return type(make()).__name__


CHOICES: dict[str, Callable[[], str]] = {
    "W4A16": lambda: packed(scalar_types.uint4b8, 128),
    "W4A16 asymmetric": lambda: packed(scalar_types.uint4, 128, zero_points=True),
    "W8A16": lambda: packed(scalar_types.uint8b128, -1),
    "W4AFP8": lambda: packed(scalar_types.int4, 128, torch.float8_e4m3fn),
    "W8A8": int8,
    "FP8 dynamic": lambda: fp8(kFp8StaticChannelSym, kFp8DynamicTokenSym, linear._POSSIBLE_FP8_KERNELS),
    "FP8 static": lambda: fp8(kFp8StaticTensorSym, kFp8StaticTensorSym, linear._POSSIBLE_FP8_KERNELS),
    "FP8 block": lambda: fp8(kFp8Static128BlockSym, kFp8Dynamic128Sym, linear._POSSIBLE_FP8_BLOCK_KERNELS),
    "NVFP4": lambda: made(linear.init_nvfp4_linear_kernel),
    "NVFP4A16": lambda: made(lambda: linear.init_nvfp4_linear_kernel(use_a16=True)),
    "MXFP4": lambda: made(lambda: linear.init_mxfp4_linear_kernel(kMxfp4Dynamic)),
    "MXFP8": lambda: made(lambda: linear.init_mxfp8_linear_kernel(weight_shape=(OUTPUTS, INPUTS))),
}


def chosen(choose: Callable[[], str]) -> str:
    try:
        return choose()
    except (ValueError, NotImplementedError) as error:
        return f"no: {str(error).splitlines()[0][:200]}"


def with_flashinfer() -> Iterator[Any]:
    """The patches that make vLLM's kernels find FlashInfer."""
    for package in (mxfp4, mxfp8, nvfp4, scaled_mm):
        module = importlib.import_module(f"{package.__name__}.flashinfer")
        for name in dir(module):
            if name.startswith("has_flashinfer"):
                yield mock.patch.object(module, name, lambda: True)


def at(capability: int, flashinfer: bool) -> dict[str, str]:
    """The kernels that vLLM chooses on a GPU of this compute capability (times 10)."""
    kind = type(current_platform)
    has = DeviceCapability(major=capability // 10, minor=capability % 10)
    with ExitStack() as stack:
        for patch in (
            mock.patch.object(kind, "_enum", PlatformEnum.CUDA),
            mock.patch.object(kind, "get_device_capability", classmethod(lambda cls, device_id=0: has)),
            mock.patch.object(w8a8_utils.ops, "cutlass_scaled_mm_supports_fp8", lambda at: at >= 89),
            mock.patch.object(scaled_mm.cutlass, "CUTLASS_BLOCK_FP8_SUPPORTED", capability >= 90),
            mock.patch.object(nvfp4_utils, "cutlass_scaled_mm_supports_fp4", lambda at: at >= 100),
            *(with_flashinfer() if flashinfer else ()),
            set_current_vllm_config(VllmConfig()),
        ):
            stack.enter_context(patch)
        return {kind: chosen(choose) for kind, choose in CHOICES.items()}


def main(capabilities: list[int]) -> dict[str, dict[str, list[str]]]:
    found = {}
    for capability in capabilities:
        without, beside = at(capability, flashinfer=False), at(capability, flashinfer=True)
        found[f"sm_{capability}"] = {kind: [without[kind], beside[kind]] for kind in CHOICES}
    return found


if __name__ == "__main__":
    print(json.dumps(main([int(word) for word in sys.argv[1:]])))
