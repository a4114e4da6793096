"""Whether a checkpoint can be sound, from its files alone: a broken one is found in a second, not after hours."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from quantpress.errors import StageError
from quantpress.model import headers

# Where a float of 16 bits or 32 has its exponent: all ones there is infinity or no number.
_EXPONENTS = {"BF16": ("<u2", 0x7F80), "F16": ("<u2", 0x7C00), "F32": ("<u4", 0x7F800000)}


def check_scales(folder: Path) -> None:
    """Raises StageError naming the first layers whose scales are infinite, no number, or zero."""
    broken = [f"{name} ({what})" for name, what in _broken_scales(folder)]
    if broken:
        raise StageError(
            f"{len(broken)} layers have scales that cannot be: {', '.join(broken[:3])}; the checkpoint is broken",
            hint="look for NaN in the model's weights and for layers that the calibration data never reaches; "
            "ignore such layers, or calibrate with other data",
        )


def check_size(checkpoint_bytes: int, model_bytes: int) -> None:
    """Raises StageError if the checkpoint is no smaller than the model."""
    if checkpoint_bytes >= model_bytes:
        raise StageError(
            f"the checkpoint has {checkpoint_bytes} bytes of weights, the model {model_bytes}: nothing was compressed",
            hint="check `targets` and `ignore`; report this with the log",
        )


def _broken_scales(folder: Path) -> Iterator[tuple[str, str]]:
    for name, dtype, _, raw in headers.contents(folder, lambda name: name.endswith("_scale")):
        if what := _problem(dtype, raw):
            yield name, what


def _problem(dtype: str, raw: bytes) -> str | None:
    import numpy  # 0.1 s: only where a checkpoint is looked at

    if dtype in _EXPONENTS:
        kind, exponent = _EXPONENTS[dtype]
        bits = numpy.frombuffer(raw, kind)
        sign = 1 << (8 * bits.itemsize - 1)
        infinite, zero = (bits & exponent) == exponent, (bits & ~numpy.array(sign, kind)) == 0
    elif dtype == "F8_E4M3":
        bits = numpy.frombuffer(raw, "u1") & 0x7F
        infinite, zero = bits == 0x7F, bits == 0
    else:
        return None
    return "not finite" if infinite.any() else "zero" if zero.any() else None
