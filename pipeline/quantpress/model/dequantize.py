"""A model that is quantized already, as an ordinary folder in 16 bits: a step of its own, made once and kept."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

from quantpress.errors import slug
from quantpress.model import headers
from quantpress.model.config import Config, dtype_of
from quantpress.model.side_files import copied, side_files
from quantpress.model.soundness import SAID_ELSEWHERE, SAID_IN_CONFIG, Method, Quantization
from quantpress.runtime import atomic, digests, disk
from quantpress.runtime.cache import cache_folder, made_once
from quantpress.runtime.inside import inside
from quantpress.runtime.worker import Job, Result, Worker


class DequantizeJob(Job):
    """The quantized model's folder, the method that undoes it, its `quantization` as the config or another file has
    it (empty where nothing says), the type of the weights that come of it, and the folder that they go into."""

    model: Path
    method: Method
    quantization: dict[str, Any]
    dtype: str
    output: Path


class DequantizeResult(Result):
    """How many weights were dequantized, and how many tensors copied as they are."""

    dequantized: int
    copied: int


DEQUANTIZE = Worker("quantpress.model.dequantize_worker", DequantizeJob, DequantizeResult)


def dequantized(folder: Path, config: Config, found: Quantization, digest: str) -> Path:
    """The folder, in the cache under `digest`, of the same model with weights in the type that its config names.

    Everything else is copied. Raises StageError naming the tensors that cannot be dequantized, CapabilityError for
    lack of space.
    """
    method = found.method
    assert method is not None
    final = cache_folder() / "models" / f"{slug(folder.name)}-{digest[:12]}-dequantized"

    def dequantize(staged: Path) -> None:
        disk.require_space(final, 2 * sum(_numbers(tensor) for tensor in headers.read_folder(folder).values()))
        job = DequantizeJob(
            model=folder.resolve(),
            method=method,
            quantization=found.details,
            dtype=dtype_of(config),
            output=staged.resolve(),
        )
        log = cache_folder() / "logs" / f"{final.name}.log"
        DEQUANTIZE.run(job, staged, f"dequantizing {folder.name} ({found.said}) to {job.dtype}", log)
        for path in side_files(folder):
            if path.name not in ("config.json", *SAID_ELSEWHERE):
                copied(path, folder, staged)
        atomic.write_json(staged / "config.json", without_quantization(config))

    return made_once(final, dequantize)


def described_dequantized(folder: Path, config: Config) -> Path:
    """A folder in the cache with the config of the dequantized model, the code that it brings and no weights: enough to
    plan for it."""
    plain, code = without_quantization(config), [inside(folder, path.name) for path in sorted(folder.glob("*.py"))]
    known = digests.sha256_json([plain, *digests.sha256_files(code).values()])
    final = cache_folder() / "models" / f"{slug(folder.name)}-{known[:12]}-described"

    def describe(staged: Path) -> None:
        atomic.write_json(staged / "config.json", plain)
        for path in code:
            copied(path, folder, staged)

    return made_once(final, describe)


def _numbers(tensor: headers.Tensor) -> int:
    """How many weights a tensor may hold: a byte holds two of 4 bits, and 32 bits eight of them."""
    return prod(tensor.shape) * {"I32": 8, "U8": 2}.get(tensor.dtype, 1)


def without_quantization(config: Config) -> Config:
    """The config of the same model, in which no part says that it is quantized."""
    return {
        key: without_quantization(value) if isinstance(value, dict) else value
        for key, value in config.items()
        if key not in SAID_IN_CONFIG
    }
