"""What of a node a stage takes."""

from __future__ import annotations

import os

import pytest

from quantpress.errors import CapabilityError
from quantpress.runtime import environment
from quantpress.sweep import cluster, placing
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


TWO_AND_A_SCREEN = """0, GPU-a, big, 81559, 81000
1, GPU-b, for a screen, 4096, 4000
2, GPU-c, big, 81559, 81000
"""


@pytest.mark.parametrize(
    ("named", "variables", "gpus"),
    [
        (None, {"CUDA_VISIBLE_DEVICES": "0,2", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, 2),
        ("0,1,2", {}, 3),
        ("2,0", {}, 2),
    ],
)
def test_a_small_card_is_none_that_a_stage_gets(
    named: str | None, variables: dict[str, str], gpus: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray sets CUDA_VISIBLE_DEVICES for each stage, which then takes that for what its caller wants."""
    rows = [line.split(", ") for line in TWO_AND_A_SCREEN.splitlines()]
    monkeypatch.setattr(environment, "gpus", lambda: ["a GPU"] * 3)
    monkeypatch.setattr(environment, "_listed", lambda *_: rows)
    monkeypatch.setattr(os, "environ", {"CUDA_VISIBLE_DEVICES": named} if named else {})
    assert cluster._large_gpus_alone() == variables
    assert placing.this_machine().gpus == gpus
    os.environ |= variables
    assert placing.this_machine().gpus == gpus
