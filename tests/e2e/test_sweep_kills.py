"""A sweep on a Ray cluster of three nodes while its workers, its stages and a node are killed (kill -9), and the sweep
itself. What comes of it is what the same stages give one after the other, and nothing is done twice but what was lost.

`make crash-test` runs it (QUANTPRESS_SWEEP_KILLS=1).
"""

from __future__ import annotations

import json
import os
import random
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from support import SERVED

from quantpress.runtime import digests
from quantpress.sweep import cluster
from quantpress.sweep.stages import Needs, Outcome, Stage
from quantpress.sweep.task import Setting

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif("QUANTPRESS_SWEEP_KILLS" not in os.environ, reason="ten minutes; `make crash-test` runs it"),
]
Run = Callable[..., "subprocess.CompletedProcess[str]"]
NODES, CPUS = 3, 2
OPTIONS = ("--limit", "4", "--set", "calibration.samples=8", "--set", "calibration.max_sequence_length=64")
SWEEP = """
name: killed
description: Three recipes, one suite, and one of them measured.
models: [{model}]
recipes: [{served}, rtn-w4a16, w8a8-dynamic]
suites: [smoke]
workloads: [{load}]
exclude:
  - {{recipe: rtn-w4a16, workload: {load}}}
  - {{recipe: w8a8-dynamic, workload: {load}}}
"""


@contextmanager
def three_nodes(environment: dict[str, str], **each: int) -> Iterator[str]:
    """The address of a cluster on this machine: a head that takes no tasks, and three nodes."""
    from ray.cluster_utils import Cluster

    # Which the nodes inherit; what else runs here may take all of the memory.
    os.environ |= {**environment, "RAY_memory_monitor_refresh_ms": "0"}
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        for _ in range(NODES):
            with suppress(Exception):  # Ray gives a node 30 seconds, and a busy machine takes longer
                made.add_node(object_store_memory=80 * 2**20, **each)
        made.wait_for_nodes(timeout=120)
        yield made.address
    finally:
        made.shutdown()


def stages_of(real: Run, file: Path, out: Path) -> list[dict[str, Any]]:
    done = real("sweep", str(file), "--plan", "--json", "--out", str(out), *OPTIONS)
    return list(json.loads(done.stdout)["stages"])


def results(out: Path) -> dict[str, Any]:
    """The digest of every file of every checkpoint, and of every score what does not depend on when it was made."""
    files = sorted(path for path in out.glob("*/*/checkpoint/*") if path.is_file())
    scores = {path: json.loads(path.read_text()) for path in out.glob("*/*/accuracy.json")}
    return {
        "files": {str(path.relative_to(out)): digests.sha256_file(path) for path in files},
        "scores": {str(path.relative_to(out)): (one["tasks"], one["overall"]) for path, one in scores.items()},
    }


def process_of(log: Path) -> psutil.Process | None:
    """The quantpress that a stage runs, by the command at the head of its log."""
    arguments = shlex.split(log.read_text().splitlines()[0])[1:]
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if words[1:3] == ["-m", "quantpress"] and words[3:] == arguments:
            return process
    return None


def kill(log: Path, what: str) -> None:
    """Kills a stage's own process, Ray's worker above it, or the raylet of its node."""
    deadline = time.monotonic() + 30
    while (process := process_of(log)) is None:
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)
    above = {"worker": "ray::", "node": "raylet"}.get(what)
    chain = [process, *process.parents()]
    victim = chain[0] if above is None else next(one for one in chain if above in " ".join(one.cmdline()[:1]))
    victim.kill()


def newest_logs(out: Path) -> Path | None:
    folders = sorted((out / ".sweeps" / "killed").glob("2*"))
    return folders[-1] if folders else None


def follow(sweep: subprocess.Popen[bytes], out: Path, victims: dict[str, str], deadline: float) -> list[str]:
    """Kills each victim once, some seconds after it has begun. Returns those that were hit."""
    hit: list[str] = []
    while sweep.poll() is None and len(hit) < len(victims):
        assert time.monotonic() < deadline, victims
        time.sleep(0.1)
        logs = newest_logs(out)
        for name, what in victims.items():
            if name not in hit and logs and (logs / f"{name}.1.log").exists():
                time.sleep(random.uniform(1, 4))
                kill(logs / f"{name}.1.log", what)
                hit.append(name)
    return hit


def overlapping(outcomes: Sequence[Outcome]) -> list[tuple[Outcome, Outcome]]:
    """Pairs of stages that ran on one node at the same time."""
    ran = sorted((one for one in outcomes if one.started and one.ended), key=lambda one: one.started or 0)
    return [
        (one, other)
        for number, one in enumerate(ran)
        for other in ran[number + 1 :]
        if one.node == other.node and (other.started or 0) < (one.ended or 0)
    ]


def test_a_bench_has_its_node_to_itself(tmp_path: Path, real_environment: dict[str, str]) -> None:
    """Four short stages fit a node at once; commands that take a second stand in for what takes an hour."""
    stages = [
        Stage(
            key=str(number),
            verb="bench" if number % 4 == 3 else "evaluate",
            model="m",
            recipe=f"r{number}",
            of="s",
            arguments=["recipes", "list"],
            results=[],
            writes=tmp_path / str(number),
            needs=Needs(gpus=1, alone=number % 4 == 3),
        )
        for number in range(24)
    ]
    with three_nodes(real_environment, num_cpus=8, num_gpus=4) as address, cluster.connected(address) as nodes:
        outcomes = list(cluster.outcomes(stages, nodes, Setting(tmp_path / "logs", None, tmp_path)))
    assert [one.state for one in outcomes] == ["there"] * len(stages)
    pairs = overlapping(outcomes)
    assert pairs, "nothing ran side by side"
    assert not [pair for pair in pairs if "bench" in {one.verb for one in pair}]


def test_a_sweep_under_fire_gives_what_its_stages_give_by_hand(
    two_layers: Path, least_load: Path, tmp_path: Path, real: Run, real_environment: dict[str, str]
) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(SWEEP.format(model=two_layers, load=least_load, served=SERVED))
    by_hand, swept = tmp_path / "by-hand", tmp_path / "swept"
    stages = stages_of(real, file, by_hand)
    for stage in stages:
        real(*stage["arguments"])
    model = two_layers.name
    baseline = next(stage["key"][:8] for stage in stages if stage["verb"] == "baseline")
    first = {
        f"{model}-rtn-w4a16-quantize": "worker",
        f"{model}-{SERVED}-quantize": "node",
        f"{model}-baseline-smoke-{baseline}": "command",
    }

    def started(log: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "quantpress", "sweep", str(file), "--address", address]
        with log.open("wb") as stream:
            return subprocess.Popen(
                [*command, "--out", str(swept), *OPTIONS, "--json"], env=real_environment, stdout=stream, stderr=stream
            )

    with three_nodes(real_environment, num_cpus=CPUS) as address:
        # Workers, stages and a node go away, and then the sweep itself.
        sweep = started(tmp_path / "first.log")
        deadline = time.monotonic() + 900
        hit = follow(sweep, swept, first, deadline)
        assert sorted(hit) == sorted(first), (tmp_path / "first.log").read_text()
        record = swept / ".sweeps" / "killed" / "sweep.json"
        while not record.exists() or len(json.loads(record.read_text())["outcomes"]) < 4:
            assert sweep.poll() is None and time.monotonic() < deadline, (tmp_path / "first.log").read_text()
            time.sleep(0.2)
        sweep.kill()
        sweep.wait()
        before = {one["key"]: one for one in json.loads(record.read_text())["outcomes"]}
        first_logs = newest_logs(swept)
        assert first_logs

        # Started again, it does what is missing, and once more a worker goes away.
        sweep = started(tmp_path / "second.log")
        again = follow(sweep, swept, {f"{model}-{SERVED}-bench-least": "worker"}, time.monotonic() + 900)
        assert sweep.wait(900) == 0, (tmp_path / "second.log").read_text()
    outcomes = json.loads(record.read_text())["outcomes"]

    assert results(swept) == results(by_hand)
    for outcome in before.values():
        assert outcome["state"] == "made", outcome
        name = Path(outcome["log"]).name.rpartition(".")[0].rpartition(".")[0]
        assert outcome["attempts"] == (2 if name in hit else 1), outcome
    for outcome in outcomes:
        assert outcome["state"] == ("there" if outcome["key"] in before else "made"), outcome
        assert outcome["attempts"] == (2 if outcome["verb"] == "bench" and again else 1), outcome
    pairs = overlapping([Outcome.model_validate(one) for one in outcomes])
    assert not [pair for pair in pairs if "bench" in {one.verb for one in pair}]
    print(f"killed: {first}, the sweep with {len(before)} stages done, and {again}")
    assert not [one for one in psutil.process_iter(["cmdline"]) if str(swept) in " ".join(one.info["cmdline"] or [])]
