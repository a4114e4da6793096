"""A model whose weights stay on the disk, by compressed-tensors' offloading: each is read when a module computes.

What a modifier changes is written to a folder of the run's; what it does not is read from the model's own files. Both
are mapped, also when the checkpoint is written from them: these pages count as the process's memory, and the kernel
takes them back where it needs memory.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from quantpress.runtime import worker

_M_MMAP_THRESHOLD = -3  # malloc.h
_LARGE = 2**20  # bytes


def loading(folder: Path | None) -> dict[str, Any]:
    """The options of `from_pretrained` that leave the weights on the disk; none without a folder for changed ones.

    From then on what is freed of tensors goes back to the kernel at once: glibc would hold on to it, and the more of it
    the more layers there are (mallopt(3)).
    """
    if folder is None:
        return {}
    ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE)
    return {"device_map": {"": "disk"}, "offload_folder": str(folder), "offload_buffers": True}


def settle(model: Any) -> None:
    """Gives a model that was loaded so from accelerate's hands into those of compressed-tensors, which also shares it
    among several processes."""
    from compressed_tensors.offload import from_accelerate

    if hasattr(model, "hf_device_map") or worker.processes() > 1:
        from_accelerate(model)


def parameters(model: Any) -> Iterator[tuple[str, Any]]:
    """Every parameter with its name, read one at a time: torch's own iterator holds on to all of them."""
    from compressed_tensors.offload import disable_onloading

    with disable_onloading():
        names = [name for name, _ in model.named_parameters()]
    for name in names:
        yield name, model.get_parameter(name)
