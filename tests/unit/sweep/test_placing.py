"""What of a node a stage takes."""

from __future__ import annotations

import pytest

from quantpress.errors import CapabilityError
from quantpress.sweep.placing import Node, options
from quantpress.sweep.stages import Needs

GB = 10**9
SMALL, LARGE = Node(8, 0, 30 * GB), Node(16, 0, 60 * GB)
GPUS = Node(64, 8, 500 * GB, [80 * GB] * 8)


def test_alone_takes_all_of_the_largest_kind() -> None:
    found = options(Needs(memory=GB, alone=True), [SMALL, LARGE])
    assert found == {"num_cpus": 16, "num_gpus": 0, "memory": GB}
    assert options(Needs(gpus=2, alone=True), [LARGE, GPUS]) == {"num_cpus": 64, "num_gpus": 8, "memory": 0}


def test_nothing_fits_beside_a_stage_that_is_alone() -> None:
    nodes = [SMALL, LARGE, GPUS]
    alone = options(Needs(gpus=1, alone=True), nodes)
    for needs in (Needs(), Needs(gpus=1), Needs(memory=GB)):
        node = GPUS
        assert alone["num_cpus"] + options(needs, nodes)["num_cpus"] > node.cpus


def test_without_gpus_a_stage_fits_the_smallest_node_that_has_the_memory() -> None:
    assert options(Needs(memory=10 * GB), [SMALL, LARGE])["num_cpus"] == 8
    assert options(Needs(memory=40 * GB), [SMALL, LARGE])["num_cpus"] == 16


def test_with_gpus_the_cores_go_by_their_share() -> None:
    assert options(Needs(gpus=2), [GPUS]) == {"num_cpus": 16, "num_gpus": 2, "memory": 0}


def test_more_memory_than_any_node_has_is_not_waited_for() -> None:
    assert options(Needs(memory=100 * GB), [SMALL, LARGE])["memory"] == 60 * GB


def test_more_gpus_than_any_node_has_are_refused() -> None:
    with pytest.raises(CapabilityError, match="needs 9 GPUs of one node, and no node of the cluster has more than 8"):
        options(Needs(gpus=9), [SMALL, GPUS])
