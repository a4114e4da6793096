"""kill -9 at random moments of real runs. What was there stays whole, nothing keeps running, and a rerun goes on.

QUANTPRESS_KILLS and QUANTPRESS_CHAIN_KILLS say how many; `make crash-test` runs both with 24.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from support import SERVED

from quantpress.artifact import upkeep
from quantpress.artifact.accuracy import Accuracy
from quantpress.artifact.manifest import Artifact
from quantpress.artifact.results import results_of
from quantpress.artifact.throughput import Throughput

pytestmark = pytest.mark.e2e
Run = Callable[..., "subprocess.CompletedProcess[str]"]
Start = Callable[..., "subprocess.Popen[bytes]"]

KILLS = int(os.environ.get("QUANTPRESS_KILLS", "6"))
CHAIN_KILLS = int(os.environ.get("QUANTPRESS_CHAIN_KILLS", "0"))
RESULTS = ("manifest.json", "accuracy.json", "throughput.json")


def processes(out: Path) -> list[psutil.Process]:
    """Everything that works below `out` (its path is on their command lines)."""
    running = psutil.process_iter(["cmdline", "status"])
    return [p for p in running if p.info["status"] != "zombie" and str(out) in " ".join(p.info["cmdline"] or [])]


def wait_until_gone(out: Path) -> None:
    deadline = time.monotonic() + 30
    while found := processes(out):
        assert time.monotonic() < deadline, [p.info["cmdline"] for p in found]
        time.sleep(0.1)


def kill(command: subprocess.Popen[bytes], out: Path, worker: bool) -> str:
    """Kills the command, or one of the processes that it started. Returns what was hit."""
    victims = [p for p in processes(out) if p.pid != command.pid] if worker else []
    victim = random.choice(victims) if victims else psutil.Process(command.pid)
    if command.poll() is None and victim.is_running():
        victim.kill()
        command.wait(timeout=60)
        return "worker" if victims else "command"
    command.wait(timeout=600)
    return "too late"


def test_a_kill_leaves_the_old_checkpoint_or_the_new_one(
    two_layers: Path, tmp_path: Path, real: Run, start: Start
) -> None:
    def arguments(size: int, out: Path = tmp_path) -> tuple[str, ...]:
        where = ("--model", str(two_layers), "--out", str(out))
        return ("quantize", "rtn-w4a16", *where, "--set", f"modifiers.0.rtn.group_size={size}")

    digests = {}
    for size in (32, 64):
        begun = time.monotonic()
        digests[size] = json.loads(real(*arguments(size), "--json").stdout)["digest"]
        duration = time.monotonic() - begun
    artifact = Artifact(tmp_path / "two-layers" / "rtn-w4a16")
    current, seen = digests[64], Counter[str]()
    for number in range(KILLS):
        size = 32 if current == digests[64] else 64
        command = start(*arguments(size))
        time.sleep(random.uniform(0, 1.1 * duration))
        hit = kill(command, tmp_path, worker=number % 3 == 2)
        wait_until_gone(tmp_path)
        assert upkeep.verify(artifact) == []
        found = artifact.finished().digest
        assert found in (current, digests[size])
        seen[f"{hit}: {'old' if found == current else 'new'}"] += 1
        current = found
    print(f"{KILLS} kills within {duration:.1f} s: {dict(seen)}")
    assert seen["command: old"] > 0
    real(*arguments(32 if current == digests[64] else 64))
    assert artifact.finished().digest != current
    assert not list(tmp_path.rglob(".*staging*"))


@pytest.mark.skipif(not CHAIN_KILLS, reason="takes half an hour; `make crash-test` runs it")
def test_a_rerun_of_the_chain_goes_on_where_it_was_killed(
    embedded_model: Path, least_load: Path, tmp_path: Path, start: Start
) -> None:
    options = ("--suite", "smoke", "--limit", "4", "--workload", str(least_load))
    kills, chains, seen = 0, 0, Counter[str]()
    while kills < CHAIN_KILLS:
        out, done = tmp_path / f"chain-{chains}", dict[str, float]()
        chains += 1
        while len(done) < len(RESULTS):
            command = start("run", SERVED, "--out", str(out), *options)
            if kills < CHAIN_KILLS:
                time.sleep(random.uniform(0, 120))
            hit = kill(command, out, worker=kills % 3 == 2) if kills < CHAIN_KILLS else f"exit {command.wait()}"
            kills += hit in ("command", "worker")
            assert hit in ("command", "worker") or command.returncode == 0
            wait_until_gone(out)
            artifact = Artifact(out / embedded_model.name / SERVED)
            times = {n: (artifact.folder / n).stat().st_mtime for n in RESULTS if (artifact.folder / n).is_file()}
            assert {name: times.get(name) for name in done} == done, "a finished stage was done again"
            if times:
                assert upkeep.verify(artifact) == []
                found = [kind.STAGE for kind in (Accuracy, Throughput) if results_of(artifact, kind).newest()]
                assert len(found) == len(times) - 1
            seen[f"{hit} with {len(done)} stages done"] += 1
            done = times
    print(f"{kills} kills in {chains} chains: {dict(seen)}")
