"""Runs one command and takes it down, with all it started, when its owner goes away for any reason.

    python -I guard.py COMMAND [ARG ...]

The owner holds the other end of standard input: when that closes (even by kill -9), or on SIGTERM, every descendant
gets SIGTERM, and after GRACE_S seconds SIGKILL. The guard ends with the command's exit code, or 128 + its signal.
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
_PR_SET_CHILD_SUBREAPER = 36


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
    adopt_orphans()
    woken, wake = os.pipe()
    signal.signal(signal.SIGTERM, lambda *_: os.write(wake, b"x"))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
        )
    except OSError as error:
        print(f"guard: {command[0]}: {error}", file=sys.stderr)
        return 127
    ended = os.pidfd_open(child.pid)
    ready, _, _ = select.select([ended, 0, woken], [], [])
    code = child.wait() if ended in ready else None
    take_down()
    if code is None:
        code = child.poll() or 0
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
