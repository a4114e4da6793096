"""In which type the forward passes of quantizing and scoring are computed: as the weights are stored, or in float32.

A CPU without bf16 instructions multiplies bf16 matrices several times slower than float32 ones. There the forward
passes run in float32, on both sides of a comparison; the checkpoint keeps the type of the model.
"""

from __future__ import annotations

from typing import Literal

from quantpress.model.config import Config, text_config
from quantpress.model.source import Model
from quantpress.runtime import cpu, digests, environment
from quantpress.runtime.cache import cache_folder
from quantpress.runtime.worker import Job, Result, Worker

ComputeDtype = Literal["stored", "float32"]
# float32 is taken if its products are this much faster: its activations take twice the memory traffic.
WORTH = 1.5


def compute_dtype(model: Model, asked: str) -> ComputeDtype:
    """What `asked` (auto, stored or float32) means for this model on this machine.

    `auto` is `stored` on GPUs, for float32 models, and on CPUs with instructions for the model's type. On other CPUs
    both are tried once (half a second each) and the answer is kept. Raises StageError if that fails.
    """
    if asked != "auto":
        return "float32" if asked == "float32" else "stored"
    dtype = stored_dtype(model.config)
    fast = cpu.FAST_PRODUCTS.get(dtype)
    if environment.gpus() or fast is None or fast & cpu.features():
        return "stored"
    speeds = product_speeds(dtype)
    return "float32" if speeds["float32"] > WORTH * speeds[dtype] else "stored"


def stored_dtype(config: Config) -> str:
    """The type of a model's weights by its config.json: "bfloat16", "float16", "float32"; "" where it does not say."""
    parts = (config, text_config(config))
    return next((str(part[key]) for part in parts for key in ("dtype", "torch_dtype") if part.get(key)), "")


class ProductsJob(Job):
    """`dtype` is tried beside float32."""

    dtype: str


class ProductsResult(Result):
    """GFLOP/s of matrix products by type: those of the fastest one, so that what else ran meanwhile does not count."""

    speeds: dict[str, float]


PRODUCTS = Worker("quantpress.plan.products_worker", ProductsJob, ProductsResult)


def product_speeds(dtype: str) -> dict[str, float]:
    """GFLOP/s of matrix products in `dtype` and in float32 on this machine's CPU, measured once for each processor and
    number of cores. Raises StageError if that fails."""
    machine = environment.machine()
    known = [machine.processor, machine.cores, sorted(cpu.features()), environment.versions(("torch",)), dtype]
    kept = cache_folder() / "products" / f"{digests.sha256_json([*known, 'fastest'])[:16]}.json"
    title = f"trying how fast this CPU multiplies in {dtype} and in float32"
    return PRODUCTS.answer(kept, ProductsJob(dtype=dtype), title).speeds
