"""Matrix products on a CPU: how fast each type is, and float32 products for a model that stays in 16 bits."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from quantpress.plan.arithmetic import PRODUCTS, ProductsJob, ProductsResult

SECONDS = 0.4
# Tokens, outputs, inputs: of a small model's widest layers; few tokens, so that a product is done before another
# program takes a core away.
_SHAPE = (128, 1536, 576)


def speeds(job: ProductsJob) -> ProductsResult:
    """GFLOP/s of the job's type and of float32."""
    found = {name: round(_speed(name), 1) for name in (job.dtype, "float32")}
    return ProductsResult(speeds=found, note=", ".join(f"{name} {speed} GFLOP/s" for name, speed in found.items()))


def _speed(dtype: str) -> float:
    import torch

    rows, outputs, inputs = _SHAPE
    left, right = (torch.randn(size, inputs).to(getattr(torch, dtype)) for size in (rows, outputs))
    torch.nn.functional.linear(left, right)  # the first one sets the threads up
    fastest, end = math.inf, time.perf_counter() + SECONDS
    while (started := time.perf_counter()) < end:
        torch.nn.functional.linear(left, right)
        fastest = min(fastest, time.perf_counter() - started)
    return 2 * rows * outputs * inputs / fastest / 1e9


@contextmanager
def float32_products(wanted: bool) -> Iterator[None]:
    """Computes linear layers and attention on the CPU in float32, and rounds what comes out to the type of the input.

    That is what an instruction for bf16 products does too: the sums are float32 there. Weights and activations stay in
    16 bits, so that scales are found, stored and applied as on any other machine and memory does not double. The two
    functions are those through which transformers' layers multiply; what else there is stays slow and right.
    """
    import torch

    functional = torch.nn.functional
    linear, attention = functional.linear, functional.scaled_dot_product_attention

    def wide(value: Any) -> Any:
        return value.float() if isinstance(value, torch.Tensor) and value.is_floating_point() else value

    def slow(value: Any) -> bool:
        return value.dtype in (torch.bfloat16, torch.float16) and value.device.type == "cpu"

    def wide_linear(value: Any, weight: Any, bias: Any = None) -> Any:
        if not slow(value):
            return linear(value, weight, bias)
        return linear(wide(value), wide(weight), wide(bias)).to(value.dtype)

    def wide_attention(query: Any, key: Any, value: Any, *rest: Any, **named: Any) -> Any:
        if not slow(query):
            return attention(query, key, value, *rest, **named)
        named = {name: wide(one) for name, one in named.items()}
        return attention(wide(query), wide(key), wide(value), *map(wide, rest), **named).to(query.dtype)

    if not wanted:
        yield
        return
    functional.linear, functional.scaled_dot_product_attention = wide_linear, wide_attention
    try:
        yield
    finally:
        functional.linear, functional.scaled_dot_product_attention = linear, attention


if __name__ == "__main__":
    raise SystemExit(PRODUCTS.main(speeds))
