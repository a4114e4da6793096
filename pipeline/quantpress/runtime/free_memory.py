"""What a machine's memory must allow before work starts."""

from __future__ import annotations

from pathlib import Path

from quantpress.errors import CapabilityError

# What quantizing takes beside the model's weights: 1.4 GB at 1.1 billion parameters (docs/explanation/measurements.md).
_BESIDE_THE_MODEL = 1_400_000_000


def available(group: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes: what the kernel has to give, or what is left of the control group's limit (containers).

    What the group counts of files that were read lately is given up where memory is asked for.
    """
    import psutil  # 30 ms

    available = int(psutil.virtual_memory().available)
    try:
        limit = int((group / "memory.max").read_text(encoding="ascii"))
        used = int((group / "memory.current").read_text(encoding="ascii"))
        counted = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
    except (OSError, ValueError):  # no such group, or "max"
        return available
    return min(available, max(0, limit - used + int(counted.get("inactive_file", 0))))


def require_for_model(weight_bytes: int) -> None:
    """Raises CapabilityError for a model that is larger than the memory: llmcompressor holds all of its weights."""
    free, needed = available(), weight_bytes + _BESIDE_THE_MODEL
    if free < needed:
        fits = max(0.0, (free - _BESIDE_THE_MODEL) / 2e9)
        raise CapabilityError(
            f"the model has {weight_bytes / 1e9:.1f} GB of weights, which are held in memory while it is quantized: "
            f"{needed / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free",
            hint=f"take a machine with more memory; up to {fits:.1f} billion parameters in 16 bits fit here",
        )
