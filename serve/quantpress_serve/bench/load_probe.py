"""Runs in vLLM's environment: starts `vllm bench serve` as often as it is asked to, importing vLLM once.

    python load_probe.py FOLDER

N.command.json in FOLDER is the command to run as the Nth, counted from 0; N.code is its exit code once it has ended.
Each command runs in a fork of this process, with a state of its own, and does what it would do from a shell.
"""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import redirect_stdout, suppress
from pathlib import Path


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
        child = os.fork()
        if child == 0:
            sys.argv = json.loads(asked.read_text(encoding="utf-8"))
            return int(vllm() or 0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        written = folder / f"{number}.written"
        written.write_text(str(code), encoding="utf-8")
        written.rename(folder / f"{number}.code")
        number += 1


if __name__ == "__main__":
    sys.path.pop(0)  # this folder, whose modules must not be taken for libraries of the same names
    raise SystemExit(main(Path(sys.argv[1])))
