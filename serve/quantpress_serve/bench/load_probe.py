"""Runs in vLLM's environment: starts `vllm bench serve` as often as it is asked to, importing vLLM once.

    python load_probe.py FOLDER

N.command.json in FOLDER is the command to run as the Nth, counted from 0; N.code is its exit code once it has ended, or
128 + its signal. Each command runs in a fork of this process, with a state of its own, and does what it would do from a
shell.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from contextlib import redirect_stdout, suppress
from pathlib import Path

_PR_SET_PDEATHSIG = 1


def main(folder: Path) -> int:
    """Waits for commands until it is taken down."""
    from vllm.entrypoints.cli.main import main as vllm

    # To tell how it is called, it imports all that it needs. What goes wrong here, the command will say.
    sys.argv = ["vllm", "bench", "serve", "--help"]
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), suppress(SystemExit, Exception):
        vllm()
    number = 0
    while True:
        asked = folder / f"{number}.command.json"
        if not asked.exists():
            time.sleep(0.02)
            continue
        sys.stdout.flush()
        sys.stderr.flush()
        ours, child = os.getpid(), os.fork()
        if child == 0:
            _die_with(ours)
            sys.argv = json.loads(asked.read_text(encoding="utf-8"))
            return int(vllm() or 0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        written = folder / f"{number}.written"
        written.write_text(str(code if code >= 0 else 128 - code), encoding="utf-8")
        written.rename(folder / f"{number}.code")
        number += 1


def _die_with(parent: int) -> None:
    """Has the kernel kill this process when its parent ends, as it does of a guard's command: a fork forgets it."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before we asked
        os._exit(128 + signal.SIGKILL)


if __name__ == "__main__":
    sys.path.pop(0)  # this folder, whose modules must not be taken for libraries of the same names
    raise SystemExit(main(Path(sys.argv[1])))
