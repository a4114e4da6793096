"""Runs in vLLM's environment, on a CPU: which operators its library for this processor has, whether its INT8 product is
exact, and whether its rotary operator turns heads that are handed to it apart.

Prints one JSON object on its last line.
"""

from __future__ import annotations

import json
from typing import TypedDict


class Found(TypedDict):
    """As quantpress_serve.probes.asking.Operators, which cannot be imported here."""

    operators: list[str]
    int8_is_exact: bool | None
    rotates_heads: bool | None


def operators() -> list[str]:
    """Of the library that vLLM picks for this processor."""
    import torch
    from vllm.platforms import current_platform

    current_platform.import_kernels()
    names = torch._C._dispatch_get_all_op_names()
    return sorted({name.removeprefix("_C::").partition(".")[0] for name in names if name.startswith("_C::")})


def int8_is_exact() -> bool:
    """The product of the largest numbers, by the operator that W8A8 layers call: where partial sums are kept in 16
    bits, they saturate."""
    import torch
    from vllm import _custom_ops as ops

    features, outputs = 128, 64
    weight = torch.full((outputs, features), 127, dtype=torch.int8).t()
    scales = torch.ones(outputs, dtype=torch.float32)
    handler = ops.create_onednn_scaled_mm(weight, scales, torch.float32, True, False, 32)
    rows = 8
    inputs, out = torch.full((rows, features), 127, dtype=torch.int8), torch.empty((rows, outputs))
    ops.onednn_scaled_mm(handler, inputs, out, torch.ones((rows, 1)), None, None, None)
    return bool((out == 127 * 127 * features).all())


def rotates_heads() -> bool:
    """Whether (tokens, heads, head size) is turned as the same numbers are in (tokens, heads x head size). Classes of
    models hand their heads over in either shape."""
    import torch

    tokens, heads, size = 4, 2, 32
    angles = torch.randn(tokens, size)
    query, key = torch.randn(tokens, heads * size), torch.randn(tokens, heads * size)
    apart = [given.clone().view(tokens, heads, size) for given in (query, key)]
    for pair in ((query, key), apart):
        torch.ops._C.rotary_embedding(torch.arange(tokens), *pair, size, angles, True)
    return bool((query == apart[0].view_as(query)).all() and (key == apart[1].view_as(key)).all())


def main() -> Found:
    """What it found; None for an operator that it does not have."""
    found = operators()
    return {
        "operators": found,
        "int8_is_exact": int8_is_exact() if "onednn_scaled_mm" in found else None,
        "rotates_heads": rotates_heads() if "rotary_embedding" in found else None,
    }


if __name__ == "__main__":
    print(json.dumps(main()))
