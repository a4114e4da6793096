"""Runs one command and takes it down, with all it started, when its owner goes away for any reason.

    python -I guard.py COMMAND [ARG ...]

The owner holds the other end of standard input: when that closes (even by kill -9), or on SIGTERM, every descendant
gets SIGTERM, and after GRACE_S seconds SIGKILL. The guard ends with the command's exit code, or 128 + its signal. If
the guard itself is killed at the same moment, its second process does the same, and the kernel kills the command.
Standard library only, Linux only: it must start in milliseconds under any Python.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path


def _grace() -> float:
    try:
        return float(os.environ.get("QUANTPRESS_GRACE_S", ""))
    except ValueError:
        return 10.0


GRACE_S = _grace()
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


def adopt_orphans() -> None:
    """Makes this process the one that inherits all processes below it whose parent dies."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def descendants() -> list[int]:
    """All processes below this one. As subreaper it inherits orphans, so none can slip away."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()
            except OSError:
                continue
            if fields[0] != "Z":
                parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found, queue = [], [os.getpid()]
    while queue:
        children = parents.get(queue.pop(), [])
        found += children
        queue += children
    return found


def reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass
    except ChildProcessError:
        pass


def take_down() -> None:
    for number, patience in ((signal.SIGTERM, GRACE_S), (signal.SIGKILL, 5.0)):
        deadline = time.monotonic() + patience
        for pid in descendants():
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue
        while descendants() and time.monotonic() < deadline:
            reap()
            time.sleep(0.02)


def main(command: list[str]) -> int:
    """The guard is two processes, so that one of them may be killed together with the owner: the outer one waits for
    the owner's end and for the inner one's, the inner one runs the command and goes when the outer one does."""
    adopt_orphans()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    woken, wake = os.pipe()
    signal.signal(signal.SIGTERM, lambda *_: os.write(wake, b"x"))
    alive, hold = os.pipe()
    inner = os.fork()
    if inner == 0:
        os.close(hold)
        os.dup2(alive, 0)  # what the owner is to the outer process, the outer one is to the inner
        os._exit(run(command, woken))
    os.close(alive)
    ended = os.pidfd_open(inner)
    ready, _, _ = select.select([ended, 0, woken], [], [])
    os.close(hold)
    if ended not in ready:
        select.select([ended], [], [], GRACE_S + 10)  # it takes everything down; where it was stopped, we do
        os.kill(inner, signal.SIGCONT)
    code = _code(inner) if select.select([ended], [], [], 0)[0] else None
    take_down()
    return 0 if code is None else code


def run(command: list[str], woken: int) -> int:
    """Runs the command to its end, or until standard input closes or a signal comes. Returns its exit code."""
    adopt_orphans()
    guard = os.getpid()

    def in_the_child() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        die_with(guard)

    try:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=in_the_child)
    except OSError as error:
        print(f"guard: {command[0]}: {error}", file=sys.stderr, flush=True)
        return 127
    ended = os.pidfd_open(child.pid)
    ready, _, _ = select.select([ended, 0, woken], [], [])
    code = child.wait() if ended in ready else None
    take_down()
    if code is None:
        code = child.poll() or 0
    return code if code >= 0 else 128 - code


def die_with(parent: int) -> None:
    """Has the kernel kill this process when its parent's main thread ends, whatever ended it."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before we asked
        os._exit(128 + signal.SIGKILL)


def _code(pid: int) -> int:
    """The exit code of a process that has ended, or 128 + its signal."""
    try:
        status = os.waitpid(pid, 0)[1]
    except ChildProcessError:
        return 0
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
