"""What a machine's memory must allow before work starts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from quantpress.errors import CapabilityError

# What quantizing takes beside the model's weights: 1.4 GB at 1.1 billion parameters (docs/explanation/measurements.md).
BESIDE_THE_MODEL = 1_400_000_000


def available(groups: Path = Path("/sys/fs/cgroup"), process: Path = Path("/proc/self/cgroup")) -> int:
    """Bytes: what the kernel has to give, or what is left of the limits of the control groups that we are in
    (containers, batch systems, systemd-run).

    What a group counts of files that were read lately is given up where memory is asked for.
    """
    import psutil  # 30 ms

    return min([int(psutil.virtual_memory().available), *_left(groups, process)])


def _left(groups: Path, process: Path) -> Iterator[int]:
    """What is left in each control group that has a limit, in versions 2 and 1 of the kernel's interface."""
    for folder in _folders(groups, process):
        for limit, used, counted in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            try:
                most = int((folder / limit).read_text(encoding="ascii"))
                taken = int((folder / used).read_text(encoding="ascii"))
                stat = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines())
            except (OSError, ValueError):  # no such group, or "max"
                continue
            yield max(0, most - taken + int(stat.get(counted, 0)))


def _folders(groups: Path, process: Path) -> Iterator[Path]:
    """Those of our memory's control groups, from the outside inwards; in a container its own is the outermost."""
    try:
        lines = [line.split(":", 2) for line in process.read_text(encoding="utf-8").splitlines()]
    except OSError:
        lines = []
    yield from (groups, groups / "memory")
    for _, controllers, path in (line for line in lines if len(line) == 3):
        if controllers in ("", "memory"):
            folder = groups / controllers
            for part in Path(path).parts[1:]:
                folder /= part
                yield folder


def stay_on_disk(whole: int, layer_by_layer: int, offload: str) -> bool:
    """Whether a model's weights stay on the disk while it is quantized; `offload` is disk, or auto: where the `whole`
    (bytes) does not fit into the memory. Raises CapabilityError where one layer after the other does not either."""
    free = available()
    if offload == "auto" and whole <= free:
        return False
    if layer_by_layer > free:
        raise CapabilityError(
            f"quantizing takes {layer_by_layer / 1e9:.1f} GB of memory although the weights stay on the disk, and "
            f"{free / 1e9:.1f} GB are free",
            hint="lower calibration.batch_size or calibration.samples, end other programs, or take a machine with more "
            "memory",
        )
    return True


def require_for_model(weight_bytes: int, why: str | None = None, meanwhile: str = "it is quantized") -> None:
    """Raises CapabilityError for a model that is larger than the memory; `why` all of its weights are held there."""
    free, needed = available(), weight_bytes + BESIDE_THE_MODEL
    if free < needed:
        fits = max(0.0, (free - BESIDE_THE_MODEL) / 2e9)
        raise CapabilityError(
            f"the model has {weight_bytes / 1e9:.1f} GB of weights, which are held in memory while {meanwhile}"
            f"{f' ({why})' if why else ''}: {needed / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free",
            hint=f"take a machine with more memory; up to {fits:.1f} billion parameters in 16 bits fit here",
        )
