"""Whether a checkpoint can be sound, from its files alone: a broken one is found in a second, not after hours."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from quantpress.errors import StageError, listed
from quantpress.model import headers

# Where a float of 16 bits or 32 has its exponent: all ones there is infinity or no number.
_EXPONENTS = {"BF16": ("<u2", 0x7F80), "F16": ("<u2", 0x7C00), "F32": ("<u4", 0x7F800000)}
_AT_THE_LIMIT = "at the limit of its type"


def check_scales(folder: Path) -> list[str]:
    """Warnings of scales at the limit of their type.

    Raises StageError naming the first layers whose scales are infinite, no number, or zero.
    """
    found = list(_odd_scales(folder))
    broken = [f"{name} ({what})" for name, what in found if what != _AT_THE_LIMIT]
    if broken:
        raise StageError(
            f"{len(broken)} layers have scales that cannot be: {', '.join(broken[:3])}; the checkpoint is broken",
            hint="look for NaN in the model's weights and for layers that the calibration data never reaches; "
            "ignore such layers, or calibrate with other data",
        )
    if not found:
        return []
    return [
        f"{len(found)} scales are at the limit of their type ({listed([name for name, _ in found])}): what is "
        "larger is cut off, so these layers compute something else; look for weights and activations that overflow"
    ]


def check_size(checkpoint_bytes: int, model_bytes: int) -> None:
    """Raises StageError if the checkpoint is no smaller than the model."""
    if checkpoint_bytes >= model_bytes:
        raise StageError(
            f"the checkpoint has {checkpoint_bytes} bytes of weights, the model {model_bytes}: nothing was compressed",
            hint="check `targets` and `ignore`; report this with the log",
        )


def _odd_scales(folder: Path) -> Iterator[tuple[str, str]]:
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
        # The largest number lies below infinity. Of 8-bit scales (NVFP4) one in each tensor is the largest by design.
        limit = (bits & ~numpy.array(sign, kind)) == exponent - 1
    elif dtype == "F8_E4M3":
        bits = numpy.frombuffer(raw, "u1") & 0x7F
        infinite, zero, limit = bits == 0x7F, bits == 0, bits > 0x7F
    elif dtype in ("U8", "F8_E8M0"):  # exponents alone (MXFP4): all ones are no number
        bits = numpy.frombuffer(raw, "u1")
        infinite, zero, limit = bits == 0xFF, bits > 0xFF, bits == 0xFE
    else:
        return None
    return "not finite" if infinite.any() else "zero" if zero.any() else _AT_THE_LIMIT if limit.any() else None
