"""Which program runs which stage, and what this machine is. The serving side is known by its executable alone."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

from quantpress.errors import CapabilityError
from quantpress.runtime.records import Record


def versions(distributions: tuple[str, ...]) -> dict[str, str]:
    """Versions of installed distributions. Raises CapabilityError if one is missing."""
    found = {}
    for name in distributions:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError as error:
            raise CapabilityError(f"{name} is not installed in {sys.prefix}", hint="make setup") from error
    return found


class Machine(Record):
    """What a measurement must name: processor, cores that this process may use, memory, GPUs, Python."""

    processor: str
    cores: int
    memory_gb: float
    gpus: list[str]
    system: str
    python: str


def machine() -> Machine:
    """This machine."""
    pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Machine(
        processor=_processor(),
        cores=len(os.sched_getaffinity(0)),
        memory_gb=round(pages / 2**30, 1),
        gpus=gpus(),
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
    )


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


@cache
def gpus() -> list[str]:
    """Names of the NVIDIA GPUs that this machine shows; none where CUDA_VISIBLE_DEVICES hides them all."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1") or not shutil.which("nvidia-smi"):
        return []
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    output = subprocess.run(query, capture_output=True, text=True, check=False)
    return [line.strip() for line in output.stdout.splitlines() if line.strip()] if output.returncode == 0 else []


def other_accelerators() -> list[str]:
    """Accelerators that are no NVIDIA GPUs, by the devices that their drivers make: "an AMD GPU (ROCm)"."""
    found = []
    nodes = Path("/sys/class/kfd/kfd/topology/nodes").glob("*/gpu_id")  # of amdgpu; a processor's own is 0
    if any(node.read_text().strip() not in ("", "0") for node in nodes):
        found.append("an AMD GPU (ROCm)")
    if drivers := sorted({link.resolve().name for link in Path("/sys/class/accel").glob("*/device/driver")}):
        found.append(f"an accelerator of the driver {', '.join(drivers)}")
    return found


class Gpu(Record):
    """A GPU, by the name that CUDA_VISIBLE_DEVICES gives it, and its memory in bytes."""

    device: str
    kind: str
    memory: int
    free: int


def visible_gpus() -> list[Gpu]:
    """The GPUs that CUDA_VISIBLE_DEVICES shows, in its order, as they are now; all where it is not set.

    Of one that nvidia-smi does not list by that name (a part of a GPU, by MIG), or whose memory it does not tell (one
    that shares the processor's), memory and free memory are 0.
    """
    if not gpus():
        return []
    rows = _listed("index", "uuid", "name", "memory.total", "memory.free")
    named = _named_devices()
    return [_gpu(device, rows) for device in ([row[0] for row in rows] if named is None else named)]


def _gpu(device: str, rows: list[list[str]]) -> Gpu:
    for index, uuid, kind, memory, free in rows:
        if _is_called(device, index, uuid):
            sizes = [int(size) * 2**20 if size.isdecimal() else 0 for size in (memory, free)]
            return Gpu(device=device, kind=kind, memory=sizes[0], free=sizes[1])
    return Gpu(device=device, kind="", memory=0, free=0)


def is_small(memory: int, largest: int) -> bool:
    """Whether a GPU with so many bytes is a card for a screen beside the largest: none that a model is shared over."""
    return 0 < 2 * memory < largest


def large_gpus() -> list[Gpu]:
    """The GPUs that CUDA_VISIBLE_DEVICES shows; where it is not set, all but small cards for a screen."""
    found = visible_gpus()
    if _named_devices() is not None:
        return found
    largest = max((gpu.memory for gpu in found), default=0)
    return [gpu for gpu in found if not is_small(gpu.memory, largest)]


def visible_capabilities() -> list[str]:
    """The compute capability ("9.0") of each GPU that CUDA_VISIBLE_DEVICES shows; of all where nvidia-smi does not list
    one by the name given there (a part of a GPU, by MIG)."""
    return [capability for _, capability in _shown(_listed("index", "uuid", "compute_cap"))]


@cache
def hidden_gpus() -> frozenset[str]:
    """The UUIDs of the GPUs that CUDA_VISIBLE_DEVICES hides; none where nvidia-smi does not list one of the others by
    the name given there."""
    rows = _listed("index", "uuid", "uuid")
    return frozenset(row[1] for row in rows) - {uuid for uuid, _ in _shown(rows)}


def _shown(rows: list[list[str]]) -> list[tuple[str, str]]:
    """UUID and third column of those of the rows that CUDA_VISIBLE_DEVICES shows; of all where one of its names is in
    none."""
    devices = _named_devices() or []
    shown = [row for device in devices for row in rows if _is_called(device, row[0], row[1])]
    return [(uuid, value) for _, uuid, value in (shown if devices and len(shown) == len(devices) else rows)]


def _is_called(device: str, index: str, uuid: str) -> bool:
    return device == index or (device.startswith("GPU-") and uuid.startswith(device))


def _named_devices() -> list[str] | None:
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return None if named is None else [name.strip() for name in named.split(",") if name.strip()]


def _listed(*columns: str) -> list[list[str]]:
    """What nvidia-smi says of each GPU of the machine in these columns; nothing where there is none to be used."""
    if not gpus():
        return []
    query = ["nvidia-smi", f"--query-gpu={','.join(columns)}", "--format=csv,noheader,nounits"]
    output = subprocess.run(query, capture_output=True, text=True, check=False).stdout
    rows = [[word.strip() for word in line.split(",")] for line in output.splitlines()]
    return [row for row in rows if len(row) == len(columns)]


def gpu_memory() -> list[int]:
    """Bytes of each GPU that this process may use; those whose memory is not told are left out."""
    return [gpu.memory for gpu in visible_gpus() if gpu.memory]


def compute_capabilities() -> list[str]:
    """Of each GPU, in the order of `gpus`: "9.0"."""
    return [capability for (capability,) in _listed("compute_cap")]


def waiting() -> dict[str, str]:
    """How long torch's threads (GNU OpenMP) spin at a barrier before they sleep, unless the caller has a say in it.

    By default they spin for milliseconds: beside another busy program each barrier then waits for a thread whose core
    is being spun away, and one is slowed down far more than twofold (docs/explanation/measurements.md). At this count
    that is gone, and nothing is lost on an idle machine; at 1000 a tenth was, with OMP_WAIT_POLICY=passive a fifth.
    """
    named = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    return {} if any(name in os.environ for name in named) else {"GOMP_SPINCOUNT": "2500"}
