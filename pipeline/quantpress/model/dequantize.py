"""A model that is quantized already, as an ordinary folder in 16 bits: a step of its own, made once and kept."""

from __future__ import annotations

import re
import shutil
from math import prod
from pathlib import Path
from typing import Any

from quantpress.errors import slug
from quantpress.model import headers
from quantpress.model.config import Config, dtype_of
from quantpress.model.soundness import SAID_ELSEWHERE, SAID_IN_CONFIG, Method, Quantization
from quantpress.runtime import atomic, digests, disk, foreign
from quantpress.runtime.cache import cache_folder, made_once
from quantpress.runtime.inside import inside
from quantpress.runtime.worker import Job, Result, Worker

# Files of a model's folder that are no part of it: weights in any format, and what tools keep beside them.
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx", ".index.json", ".lock")


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
    """A folder in the cache with the config of the dequantized model and no weights: enough to plan for it."""
    plain = without_quantization(config)
    final = cache_folder() / "models" / f"{slug(folder.name)}-{digests.sha256_json(plain)[:12]}-described"
    return made_once(final, lambda staged: atomic.write_json(staged / "config.json", plain))


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


def copied(file: Path, source: Path, target: Path) -> None:
    """Copies a file of one folder to its place in another."""
    place = target / file.relative_to(source)
    place.parent.mkdir(exist_ok=True)
    shutil.copyfile(file, place)


def side_files(folder: Path) -> list[Path]:
    """The files of a model's folder that are no weights: config, tokenizer, processors, templates, licence, code; and
    those of the folders that go with them: more templates, and what sentence-transformers' modules.json names.

    Raises InputError for one that lies elsewhere."""
    beside = [path for path in sorted(folder.iterdir()) if not path.name.endswith(WEIGHTS)]
    below = [path for name in _folders(folder) for path in sorted(folder.glob(f"{name}/*")) if _is_of_a_part(path)]
    return [
        inside(folder, path.relative_to(folder).as_posix())
        for path in (*beside, *below)
        if path.is_file() and not path.name.startswith(".")
    ]


def _folders(folder: Path) -> list[str]:
    """Names of folders beside the weights whose files belong to the model."""
    try:
        modules = foreign.read_json(folder / "modules.json")
    except (OSError, ValueError):
        modules = []
    parts = [part.get("path") for part in modules if isinstance(part, dict)] if isinstance(modules, list) else []
    named = [name for name in parts if isinstance(name, str) and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name)]
    return ["additional_chat_templates", *named]


def _is_of_a_part(path: Path) -> bool:
    """Its own weights too, which are small; safetensors only."""
    return path.suffix == ".safetensors" or not path.name.endswith(WEIGHTS)
