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
    strategy: Literal["channel", "tensor", "block", "group"] = "group"


def _int_groups(bits: int, activations: Literal["none", "dynamic"] = "none", symmetric: bool = True) -> Scheme:
    return Scheme(bits, 128, True, symmetric, activations=activations)


SCHEMES: dict[str, Scheme] = {
    "W4A16": _int_groups(4),
    "W4A16_ASYM": _int_groups(4, symmetric=False),
    "W8A16": _int_groups(8),
    "W8A8": Scheme(8, activations="dynamic", strategy="channel"),
    "INT8": Scheme(8, activations="dynamic", strategy="channel"),
    "W4A8": _int_groups(4, "dynamic"),
    "W4AFP8": _int_groups(4, "dynamic"),
    "FP8": Scheme(8, kind="float", activations="static", strategy="tensor"),
    "FP8_DYNAMIC": Scheme(8, kind="float", activations="dynamic", strategy="channel"),
    "FP8_BLOCK": Scheme(8, kind="float", activations="dynamic", strategy="block"),
    "NVFP4": Scheme(4, 16, kind="float", activations="static"),
    "NVFP4A16": Scheme(4, 16, kind="float"),
    "MXFP4": Scheme(4, 32, kind="float", activations="dynamic"),
    "MXFP4A16": Scheme(4, 32, kind="float"),
    "MXFP8": Scheme(8, 32, kind="float", activations="dynamic"),
    "MXFP8A16": Scheme(8, 32, kind="float"),
}
