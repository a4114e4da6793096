"""The work of one task, on whichever node Ray has placed it: a stage as a child process under the guard.

So everything holds that holds for a command by hand: digests, locks, staging, messages. When Ray's worker goes away, by
kill -9 too, the guard takes the stage down, and Ray begins it anew elsewhere.
"""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from quantpress.errors import GateError, bounded
from quantpress.runtime import atomic, locks, process
from quantpress.sweep.stages import Outcome, Stage, State, ended

# How often a stage is begun again whose worker, or whose node, went away.
RETRIES = 3
# Until a lost attempt's processes are gone (the guard gives them ten seconds, and kills them then), and a server of NFS
# has given up the lock of a node that is gone: many take 90 seconds.
_PATIENCE_S = 180.0
_LOOK_S = 1.0
_SIGNALS = 128  # exit codes from here on: killed by a signal
_LONGEST_ERROR = 2000


class LostError(Exception):
    """The stage was killed from outside: it said nothing, so it is no failure of its own. Ray begins it again."""


class NodeLostError(LostError):
    """The node's part of Ray is gone (raylet, the parent of its workers), and Ray begins the stage on another node."""


@dataclass(frozen=True)
class Setting:
    """What all tasks of a sweep have in common: the folder of its logs, and the OMP_NUM_THREADS and working folder of
    who started it.

    Ray sets that variable by the CPUs of a task, and the number of threads decides the bits of a checkpoint. Relative
    paths (in recipes, in the environment) begin in that folder, where a node has it."""

    logs: Path
    threads: str | None
    folder: Path


def run(stage: Stage, setting: Setting, node: str) -> Outcome:
    """Runs a stage to its end, unless that was begun often enough: there are losses that Ray does not count. Raises
    LostError if it was killed, or its node is lost."""
    if len(attempts(setting.logs, stage)) > RETRIES:
        return lost(stage, setting.logs, "its worker went away each time")
    _wait_for_the_lost(stage.writes)
    command = [sys.executable, "-m", "quantpress", *stage.arguments]
    log, attempt = _new_log(setting.logs, stage.file_name)
    by_hand = shlex.join(["quantpress", *stage.arguments])
    known, started = _files(stage), time.time()
    atomic.write_text(log, f"{by_hand}\n{socket.gethostname()} {node} {started:.3f}\n")
    folder = setting.folder if setting.folder.is_dir() else None
    code = _run_while_the_node_is_there(command, log, _environment(setting.threads), folder)
    if code >= _SIGNALS:
        raise LostError(f"{stage.title}: exit code {code}, see {log}")
    return ended(
        stage,
        _state(code, made=not _files(stage) <= known),
        exit_code=code,
        error=_error(log) if code else None,
        node=node,
        host=socket.gethostname(),
        started=round(started, 3),
        ended=round(time.time(), 3),
        attempts=attempt,
        log=str(log),
        command=by_hand,
    )


def lost(stage: Stage, logs: Path, why: str) -> Outcome:
    """The outcome of a stage that did not come to an end of its own, in any attempt that its logs tell of."""
    begun = attempts(logs, stage)
    if not begun:
        return ended(stage, "lost", error=f"it did not begin: {why}")
    return ended(stage, "lost", error=f"lost in attempt {len(begun)}: {why}", attempts=len(begun), log=str(begun[-1]))


def _run_while_the_node_is_there(
    command: list[str], log: Path, env: dict[str, str | None], folder: Path | None = None
) -> int:
    """The exit code. Takes the command down when this worker is orphaned, so that it is not in its successor's way."""
    raylet = os.getppid()
    with process.guarded(command, log, env, folder) as running:
        while True:
            with suppress(subprocess.TimeoutExpired):
                return running.wait(_LOOK_S)
            if os.getppid() != raylet:
                break
    raise NodeLostError(f"{shlex.join(command)}: the node is lost")


def begun_at(log: Path) -> float:
    """Seconds since 1970 at which an attempt was begun, by the head of its log."""
    with log.open(encoding="utf-8", errors="replace") as stream:
        return float(list(islice(stream, 2))[1].split()[-1])


def attempts(logs: Path, stage: Stage) -> list[Path]:
    """The logs of every attempt that was begun, the first one first."""
    return list(_existing(logs, stage.file_name))


def _existing(logs: Path, name: str) -> Iterator[Path]:
    number = 1
    while (path := logs / f"{name}.{number}.log").exists():
        yield path
        number += 1


def _new_log(logs: Path, name: str) -> tuple[Path, int]:
    logs.mkdir(parents=True, exist_ok=True)
    number = 1 + sum(1 for _ in _existing(logs, name))
    return logs / f"{name}.{number}.log", number


def _wait_for_the_lost(writes: Path) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while locks.lock_owner(writes) and time.monotonic() < deadline:
        time.sleep(0.2)


def _environment(threads: str | None) -> dict[str, str | None]:
    """The changes to this worker's environment: what Ray put there is not the stage's, but for CUDA_VISIBLE_DEVICES.

    And no module of the working folder takes the place of one of ours, in any of its processes."""
    ours = {"OMP_NUM_THREADS": threads, "PYTHONSAFEPATH": "1"}
    return {**{name: None for name in os.environ if name.startswith("RAY_")}, **ours}


def _files(stage: Stage) -> set[tuple[int, int]]:
    """The files of its results, by what changes when one is written anew, and not when it is moved to the front."""
    found = [path.stat() for pattern in stage.results for path in stage.writes.glob(pattern)]
    return {(one.st_ino, one.st_mtime_ns) for one in found}


def _state(code: int, made: bool) -> State:
    if code == GateError.exit_code:
        return "gate"
    if code:
        return "failed"
    return "made" if made else "there"


def _error(log: Path) -> str:
    """What the command complained of at its end, or the last that looks like an error."""
    text = log.read_text(encoding="utf-8", errors="replace")
    _, found, said = text.rpartition("\nerror: ")
    return bounded(said.strip(), _LONGEST_ERROR) if found else process.last_error(log)
