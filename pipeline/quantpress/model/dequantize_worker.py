"""Undoes a quantization tensor by tensor, with compressed-tensors' and transformers' own code, in little memory.

No model is built: what transformers never loads (layers for speculative decoding) is dequantized like the rest.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Container, Iterator
from pathlib import Path
from typing import Any

from quantpress.errors import StageError
from quantpress.model import headers, soundness
from quantpress.model.dequantize import DEQUANTIZE, DequantizeJob, DequantizeResult, described_dequantized
from quantpress.model.patterns import matching
from quantpress.model.structure import StructureJob
from quantpress.runtime import atomic

_SHARD = 2_000_000_000  # bytes of a file that comes of it, and most of what memory holds
# Scales and zero points of activations and of the KV cache: an unquantized model has no use for them.
_OF_ACTIVATIONS = re.compile(
    r"\.(input_scale|input_zero_point|input_global_scale|output_scale|output_zero_point|activation_scale"
    r"|[qkv]_scale|[qkv]_zero_point)$"
)
_BLOCK = (128, 128)

Made = Iterator[tuple[str, Any]]  # names and tensors


class Source:
    """The model's tensors by name, wherever in its files they lie; each is read when it is asked for."""

    def __init__(self, folder: Path) -> None:
        from safetensors import safe_open

        self.folder = folder
        self.headers = headers.read_folder(folder)
        opened: list[Any] = [safe_open(path, "pt") for path in headers.weight_files(folder)]
        self.files = {name: file for file in opened for name in file.keys()}  # noqa: SIM118 -- not a mapping
        self.used: set[str] = set()

    def take(self, name: str) -> Any:
        self.used.add(name)
        return self.files[name].get_tensor(name)

    def first(self, *names: str) -> str | None:
        """The first of these names that there is."""
        return next((name for name in names if name in self.files), None)


def dequantize(job: DequantizeJob) -> DequantizeResult:
    """Writes the weights. Raises StageError naming tensors that the method does not explain."""
    import torch

    source = Source(job.model)
    writer = Writer(job.output)
    for name, weight in _METHODS[job.method](source, job.quantization, getattr(torch, job.dtype)):
        writer.add(name, weight)
    dequantized = len(writer.files)
    for name in source.files:
        if name not in source.used and not _OF_ACTIVATIONS.search(name):
            writer.add(name, source.take(name))
    writer.finish()
    if left := soundness.seen(headers.read_folder(job.output)):
        raise StageError(
            f"{job.model} cannot be dequantized: {left.said}, which {job.method} does not explain",
            hint="start from the unquantized model, or serve this one as it is",
        )
    copied = len(writer.files) - dequantized
    note = f"{dequantized} weights, {copied} tensors copied"
    return DequantizeResult(dequantized=dequantized, copied=copied, note=note)


class Writer:
    """Safetensors files of a bounded size, and the index that lists them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: dict[str, str] = {}
        self.total = 0
        self._open: dict[str, Any] = {}
        self._size = 0
        self._number = 1

    @property
    def _file(self) -> str:
        return f"model-{self._number:05}.safetensors"

    def add(self, name: str, tensor: Any) -> None:
        if name in self.files:
            raise StageError(f"{name} is there twice: as it is, and quantized", hint="look at the model's files")
        if self._open and self._size + tensor.nbytes > _SHARD:
            self._write()
        self.files[name] = self._file
        self._open[name] = tensor.contiguous()
        self._size += tensor.nbytes
        self.total += tensor.nbytes

    def finish(self) -> None:
        """Writes what is left, and the index."""
        self._write()
        index = {"metadata": {"total_size": self.total}, "weight_map": self.files}
        atomic.write_json(self.folder / "model.safetensors.index.json", index)

    def _write(self) -> None:
        from safetensors.torch import save_file

        save_file(self._open, self.folder / self._file, metadata={"format": "pt"})
        self._open, self._size = {}, 0
        self._number += 1


def _compressed(source: Source, said: dict[str, Any], dtype: Any) -> Made:
    """compressed-tensors' formats, by the scheme of each module."""
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationConfig

    known = {key: value for key, value in said.items() if key not in ("version", "sparsity_config", "transform_config")}
    config = QuantizationConfig.model_validate(known)
    embeddings = embeddings_of(source.folder, config)
    for name in list(source.files):
        module, _, local = name.rpartition(".")
        if local not in ("weight", "weight_packed") or f"{module}.weight_scale" not in source.files:
            continue
        if f"{module}.weight_g_idx" in source.files:
            raise StageError(
                f"{module} is stored with weight_g_idx, an order of columns that compressed-tensors 0.19 cannot undo",
                hint="start from the unquantized model",
            )
        if source.headers[name].dtype in ("BF16", "F16", "F32"):  # saved uncompressed: its scales are advice
            source.used.update(other for other in source.files if other.startswith(f"{module}.weight_"))
            continue
        scheme, stored = scheme_of(module, config, embeddings)
        compressor = BaseCompressor.get_value_from_registry(stored)
        state = {part: source.take(f"{module}.{part}") for part in _parts(compressor, scheme, module, source)}
        yield f"{module}.weight", compressor.decompress(state, scheme)["weight"].to(dtype)


def _parts(compressor: Any, scheme: Any, module: str, source: Source) -> list[str]:
    """The names of a module's tensors that its weight is made of."""
    parts = [part for part in compressor.compression_param_names(scheme) if not part.startswith("input_")]
    if missing := [part for part in parts if f"{module}.{part}" not in source.files]:
        raise StageError(f"{module} has no {missing[0]}", hint="fetch the model again")
    return parts


def scheme_of(module: str, config: Any, embeddings: Container[str] = ()) -> tuple[Any, Any]:
    """The scheme that quantizes the module, and the format that it is stored in.

    The names in the files may be others than those that the config was written for: a single group then is the one.
    """
    from compressed_tensors.compressors.format import infer_module_format
    from torch.nn import Linear

    groups = list(config.config_groups.values())
    named = [group for group in groups if any(matching(target, [module]) for target in group.targets)]
    kind = "Embedding" if module in embeddings else "Linear"
    of_class = [group for group in groups if kind in group.targets]
    fitting = named or of_class or (groups if len(groups) == 1 else [])
    if not fitting:
        raise StageError(f"no group of the quantization config names {module}", hint="fetch the model again")
    scheme = fitting[0]
    overall = None if config.format == "mixed-precision" else config.format
    return scheme, scheme.format or overall or infer_module_format(Linear, scheme).value


def embeddings_of(folder: Path, config: Any) -> set[str]:
    """The names in the files of the model's embeddings: asked where groups are told apart by classes."""
    groups = config.config_groups.values()
    if len(groups) < 2 or not any("Embedding" in group.targets for group in groups):
        return set()
    from quantpress.model.structure_worker import structure

    described = described_dequantized(folder, json.loads((folder / "config.json").read_text(encoding="utf-8")))
    return {one.stored for one in structure(StructureJob(folder=str(described))).embeddings.values()}


def _fp8(source: Source, said: dict[str, Any], dtype: Any) -> Made:
    """8-bit floats times a scale of a tensor, a channel or a block."""
    block = tuple(said.get("weight_block_size") or _BLOCK)
    for name, tensor in source.headers.items():
        if tensor.dtype not in ("F8_E4M3", "F8_E5M2", "I8"):
            continue
        # DeepSeek's name for its scales, ModelOpt's, and that of DeepSeek V4.
        scale = source.first(f"{name}_scale_inv", f"{name}_scale", f"{name.removesuffix('.weight')}.scale")
        if scale is not None:
            yield name, scaled(name, source.take(name), source.take(scale), block, dtype)


def scaled(name: str, weight: Any, scale: Any, block: tuple[int, ...], dtype: Any) -> Any:
    """The weight times its scale, spread over what one scale reaches: all, a row, or a block of rows and columns."""
    import torch
    from compressed_tensors.entrypoints.convert.converters import FP8BlockDequantizer
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize

    if weight.ndim == 3 and scale.shape[:1] == weight.shape[:1]:  # experts in one tensor
        pairs = zip(weight, scale, strict=True)
        return torch.stack([scaled(name, one, its, block, dtype) for one, its in pairs])
    rows = weight.shape[-2] if weight.ndim > 1 else 1
    if scale.ndim == 4 and scale.shape[1::2] == (1, 1):  # ModelOpt's blocks
        scale = scale.reshape(scale.shape[::2])
    if scale.numel() == 1:
        scale = scale.reshape(1, 1)
    elif scale.ndim == 1 and len(scale) == rows:
        scale = scale.reshape(rows, 1)
    if weight.dtype == torch.int8:  # two 4-bit floats in a byte
        return Fp8Dequantize(None)._dequantize_one(weight, scale, output_dtype=dtype)
    if scale.ndim != 2 or weight.ndim != 2:
        raise StageError(
            f"{name} of shape {tuple(weight.shape)} has scales of shape {tuple(scale.shape)}, which fit no way of "
            "storing 8-bit floats that is known here",
            hint="start from the unquantized model",
        )
    sizes = [_reach(*pair) for pair in zip(weight.shape, scale.shape, block, strict=True)]
    undo = FP8BlockDequantizer(targets=["re:.*"], weight_block_size=sizes, dtype=dtype)
    return undo.process({"m.weight": weight.float(), "m.weight_scale_inv": scale})["m.weight"]


def _reach(length: int, scales: int, block: int) -> int:
    """How many numbers one scale reaches along a dimension; the last block may be cut short by the tensor's end.

    transformers 5.17 spreads the scales evenly instead: 160 rows in blocks of 128 and 32 would be two of 80.
    """
    return block if -(-length // block) == scales else -(-length // scales)


def _mxfp4(source: Source, said: dict[str, Any], dtype: Any) -> Made:
    """gpt-oss's experts: two 4-bit floats in a byte, an exponent for 32."""
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    for blocks in [name for name in source.files if name.endswith("_blocks")]:
        name = blocks.removesuffix("_blocks")
        if f"{name}_scales" not in source.files:
            raise StageError(f"{blocks} has no {name}_scales beside it", hint="fetch the model again")
        packed, exponents = source.take(blocks), source.take(f"{name}_scales")
        yield name, convert_moe_packed_tensors(packed, exponents, dtype=dtype)


_METHODS: dict[str, Callable[[Source, dict[str, Any], Any], Made]] = {
    "compressed-tensors": _compressed,
    "fp8": _fp8,
    "mxfp4": _mxfp4,
}


if __name__ == "__main__":
    raise SystemExit(DEQUANTIZE.main(dequantize))
