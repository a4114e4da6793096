"""The preset schemes by their names in compressed-tensors, as far as planning needs to know them.

The numbers are compressed-tensors' own (a test compares the two); the arguments that decide a checkpoint's bytes are
taken from its presets when the quantization runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Scheme:
    """`group_size` is None where scales are per channel, tensor or block; `free_group` says it may be chosen."""

    weight_bits: int
    group_size: int | None = None
    free_group: bool = False
    symmetric: bool = True
    kind: Literal["int", "float"] = "int"
    activations: Literal["none", "dynamic", "static"] = "none"
    strategy: Literal["channel", "tensor", "block", "group", "token"] = "group"
    activation_bits: int = 16
    activation_kind: Literal["int", "float"] = "float"
    block: tuple[int, int] | None = None

    @property
    def has_tensor_scale(self) -> bool:
        """Whether one scale for the whole tensor stands above those of its groups: NVFP4's, which layers that vLLM
        runs as one share."""
        return self.kind == "float" and self.weight_bits == 4 and self.group_size != 32


def _int_groups(bits: int, symmetric: bool = True) -> Scheme:
    return Scheme(bits, 128, True, symmetric)


def _int_groups_and_tokens(bits: int, activation_bits: int, kind: Literal["int", "float"] = "int") -> Scheme:
    return Scheme(bits, 128, True, activations="dynamic", activation_bits=activation_bits, activation_kind=kind)


_INT8 = Scheme(8, activations="dynamic", strategy="channel", activation_bits=8, activation_kind="int")


SCHEMES: dict[str, Scheme] = {
    "W4A16": _int_groups(4),
    "W4A16_ASYM": _int_groups(4, symmetric=False),
    "W8A16": _int_groups(8),
    "W8A8": _INT8,
    "INT8": _INT8,
    "W4A8": _int_groups_and_tokens(4, 8),
    "W4AFP8": _int_groups_and_tokens(4, 8, "float"),
    "FP8": Scheme(8, kind="float", activations="static", strategy="tensor", activation_bits=8),
    "FP8_DYNAMIC": Scheme(8, kind="float", activations="dynamic", strategy="channel", activation_bits=8),
    "FP8_BLOCK": Scheme(8, kind="float", activations="dynamic", strategy="block", activation_bits=8, block=(128, 128)),
    "NVFP4": Scheme(4, 16, kind="float", activations="static", activation_bits=4),
    "NVFP4A16": Scheme(4, 16, kind="float"),
    "MXFP4": Scheme(4, 32, kind="float", activations="dynamic", activation_bits=4),
    "MXFP4A16": Scheme(4, 32, kind="float"),
    "MXFP8": Scheme(8, 32, kind="float", activations="dynamic", activation_bits=8),
    "MXFP8A16": Scheme(8, 32, kind="float"),
    **{f"W{bits}A16": _int_groups(bits) for bits in (2, 3, 5, 6, 7)},
    **{f"W{bits}A8": _int_groups_and_tokens(bits, 8) for bits in (2, 3, 5, 6, 7)},
    **{f"W{bits}A4": _int_groups_and_tokens(bits, 4) for bits in (2, 3, 4)},
}
