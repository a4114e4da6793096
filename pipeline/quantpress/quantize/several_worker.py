"""Calibration in several processes, each with a GPU of its own and a share of the data: llmcompressor's torchrun path.

The weights lie in memory once: the first process loads them, and compressed-tensors gives them to the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from quantpress.runtime import worker

T = TypeVar("T")


@contextmanager
def joined() -> Iterator[None]:
    """Makes this process one of the group, and its GPU the one that it computes on; nothing where it is alone."""
    if worker.processes() == 1:
        yield
        return
    import torch
    from compressed_tensors.distributed import init_dist
    from torch import distributed

    if torch.accelerator.is_available():
        init_dist()
    else:  # which init_dist does not know
        distributed.init_process_group("gloo")
    try:
        yield
    finally:
        distributed.destroy_process_group()


def share(items: Sequence[T]) -> Sequence[T]:
    """This process's part of the calibration data, as llmcompressor cuts a data set."""
    rank, several = worker.rank(), worker.processes()
    return items[len(items) * rank // several : len(items) * (rank + 1) // several]


@contextmanager
def loading(options: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The options of `from_pretrained` for this process, and no talk between the processes while it loads: those that
    are not the first take the structure alone."""
    if worker.processes() == 1:
        yield options
        return
    from compressed_tensors.offload.utils import as_single_threaded

    with as_single_threaded():
        yield {"device_map": {"": "cpu"}, **options} if worker.rank() == 0 else {"device_map": "meta"}


@contextmanager
def in_step() -> Iterator[None]:
    """Has every process wait for the others after each block, on a CPU.

    There llmcompressor 0.14 sends no weights around (broadcast_qparams_and_cleanup, skip_cpu): they lie in memory that
    all processes share. It does not wait for them either, so one would go on with weights that another one is still
    quantizing.
    """
    import torch

    if worker.processes() == 1 or torch.accelerator.is_available():
        yield
        return
    from compressed_tensors.utils import patch_attr
    from llmcompressor.modifiers.gptq import base as gptq
    from llmcompressor.modifiers.quantization.quantization import base as quantization
    from torch import distributed

    given = gptq.broadcast_qparams_and_cleanup

    def and_wait(*arguments: Any, **named: Any) -> None:
        given(*arguments, **named)
        distributed.barrier()

    name = "broadcast_qparams_and_cleanup"
    with patch_attr(gptq, name, and_wait), patch_attr(quantization, name, and_wait):
        yield


def summed(counts: dict[str, int]) -> dict[str, int]:
    """What all processes counted together."""
    if worker.processes() == 1:
        return counts
    from torch import distributed

    of_all: list[dict[str, int]] = [{} for _ in range(worker.processes())]
    distributed.all_gather_object(of_all, counts)
    return {name: sum(one[name] for one in of_all) for name in counts}
