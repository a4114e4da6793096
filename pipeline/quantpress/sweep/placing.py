"""What of a node a stage takes, in Ray's terms: CPUs, GPUs and memory.

A stage that has its node to itself takes all CPUs and GPUs of the largest kind of node. Every other stage takes at
least one CPU, so Ray puts none beside it.
On a node without GPUs every stage computes with all cores, so each takes as many CPUs as the smallest node has that it
fits on. On nodes with GPUs, its share of the CPUs goes by its share of the GPUs.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from quantpress.errors import CapabilityError
from quantpress.runtime import environment, free_memory
from quantpress.sweep.stages import Needs


@dataclass(frozen=True)
class Node:
    """A node of the cluster as Ray counts it: CPUs, GPUs and bytes of memory that tasks may take."""

    cpus: int
    gpus: int
    memory: int
    gpu_memory: list[int] = field(default_factory=list)


def this_machine() -> Node:
    """This machine as a cluster of one node: the cores and GPUs that this process may use (but for small cards), and
    the free memory."""
    gpus = environment.large_gpus()
    cores, memory = len(os.sched_getaffinity(0)), free_memory.available()
    return Node(cores, len(gpus), memory, [gpu.memory for gpu in gpus if gpu.memory])


def options(needs: Needs, nodes: Sequence[Node]) -> dict[str, Any]:
    """Ray's options for a task with these needs. Raises CapabilityError where no node has as many GPUs.

    A stage that needs more memory than any node has gets a node with the most: it knows itself what does not fit.
    """
    fitting = [node for node in nodes if node.gpus >= needs.gpus and node.cpus >= 1]
    if not fitting:
        most = max((node.gpus for node in nodes), default=0)
        raise CapabilityError(
            f"a stage needs {needs.gpus} GPUs of one node, and no node of the cluster has more than {most}",
            hint="start nodes with more GPUs, or name an --engine that takes fewer",
        )
    if needs.alone:
        node = max(fitting, key=lambda one: (one.gpus, one.cpus, one.memory))
        return _taking(node.cpus, node.gpus, min(needs.memory, node.memory))
    memory = min(needs.memory, max(node.memory for node in fitting))
    share = min(_share(needs.gpus, node) for node in fitting if node.memory >= memory)
    return _taking(share, needs.gpus, memory)


def _share(gpus: int, node: Node) -> int:
    return max(1, node.cpus * gpus // node.gpus) if node.gpus else node.cpus


def _taking(cpus: int, gpus: int, memory: int) -> dict[str, Any]:
    return {"num_cpus": cpus, "num_gpus": gpus, "memory": memory}
