"""How far apart two checkpoints of one recipe are, for rebuilds of which equal bits cannot be promised."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from quantpress.model import headers
from quantpress.model.dequantize_worker import embeddings_of, scheme_of
from quantpress.quantize.workers import DISTANCE, Distance, DistanceJob, DistanceResult

# Relative RMS difference of a layer's weights after decompression. Rounding to 4 bits in groups moves weights by about
# a tenth of their size, to 8 bits by one to three hundredths; two roundings that know nothing of each other differ by
# 1.4 times that, and GPTQ, which trades one weight's error for another's, by up to twice as much.
BOUNDS = {2: 1.0, 3: 0.5, 4: 0.25}
BOUND_OF_MORE_BITS = 0.08
BOUND_OF_UNQUANTIZED = 0.05


def tensors_of(folder: Path) -> dict[str, dict[str, Any]]:
    """The checkpoint's tensors by module and local name; memory-mapped, read when used."""
    from safetensors import safe_open

    found: dict[str, dict[str, Any]] = {}
    for path in headers.weight_files(folder):
        with safe_open(path, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118 -- not a mapping
                module, _, local = name.rpartition(".")
                found.setdefault(module, {})[local] = opened.get_tensor(name)
    return found


def distances(job: DistanceJob) -> DistanceResult:
    """Each weight's relative RMS difference and its bound."""
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationConfig

    config = json.loads((job.one / "config.json").read_text(encoding="utf-8"))["quantization_config"]
    config = QuantizationConfig.model_validate(config)
    embeddings = embeddings_of(job.one, config)
    one, other = tensors_of(job.one), tensors_of(job.other)
    found = {}
    for module, tensors in one.items():
        bound, pair = BOUND_OF_UNQUANTIZED, [tensors, other[module]]
        if "weight_scale" in tensors:
            scheme, stored = scheme_of(module, config, embeddings)
            compressor = BaseCompressor.get_value_from_registry(stored)
            pair = [compressor.decompress(side, scheme) for side in pair]
            bound = BOUNDS.get(scheme.weights.num_bits, BOUND_OF_MORE_BITS)
        for name in ("weight", "bias"):
            if name in pair[0]:
                found[f"{module}.{name}"] = Distance(distance=_relative(pair[0][name], pair[1][name]), bound=bound)
    return DistanceResult(tensors=found)


def _relative(one: Any, other: Any) -> float:
    one, other = one.float(), other.float()
    return float((one - other).norm() / one.norm().clamp(min=1e-12))


if __name__ == "__main__":
    raise SystemExit(DISTANCE.main(distances))
