"""Processes that make a checkpoint: what each took, of which libraries; done once for the same inputs."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from quantpress.runtime import atomic, environment
from quantpress.runtime.records import Record
from timing import QUIET

_INSTALLED = "from importlib.metadata import distributions\nfor d in distributions(): print(f'{d.name}=={d.version}')"


class Made(Record):
    """One process that made a checkpoint. `inputs` is the digest of what it was given, `peak_bytes` the resident memory
    of its largest process, `installed` what its environment holds."""

    inputs: str
    command: list[str]
    exit_code: int
    seconds: float
    processor_seconds: float
    peak_bytes: int
    installed: list[str]


def measured(command: Sequence[str], inputs: str, log: Path, folder: Path) -> Made:
    """Runs the command, whose first word is a Python, in the folder, with its output in the log."""
    listing = subprocess.run([command[0], "-c", _INSTALLED], capture_output=True, text=True, check=True).stdout
    started = time.perf_counter()
    with log.open("wb") as output:
        surroundings = {**os.environ, **QUIET, **environment.waiting()}
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=surroundings, cwd=folder)
        _, status, used = os.wait4(process.pid, 0)
    return Made(
        inputs=inputs,
        command=list(command),
        exit_code=os.waitstatus_to_exitcode(status),
        seconds=time.perf_counter() - started,
        processor_seconds=used.ru_utime + used.ru_stime,
        peak_bytes=used.ru_maxrss * 1024,
        installed=sorted(set(listing.splitlines())),
    )


def once(record: Path, inputs: str, command: Sequence[str], folder: Path) -> Made:
    """The same, unless it was done with these inputs before. What failed is tried again, without what it left in the
    folder that is named as the record is."""
    if record.is_file():
        known = Made.model_validate(atomic.read_json(record))
        if known.inputs == inputs and known.exit_code == 0:
            return known
    print(shlex.join(command), file=sys.stderr, flush=True)
    shutil.rmtree(record.with_suffix(""), ignore_errors=True)
    made = measured(command, inputs, record.with_suffix(".log"), folder)
    atomic.write_json(record, made.dump())
    return made


def told_of(made: Made) -> list[str]:
    """The libraries that decide what a checkpoint becomes, with their versions, of all that was installed."""
    deciding = ("torch==", "transformers==", "gptqmodel==", "auto-round==", "llmcompressor==", "compressed-tensors==")
    return [one for one in made.installed if one.lower().startswith(deciding)]


def last_line(log: Path) -> str:
    return next((line for line in reversed(log.read_text(errors="replace").splitlines()) if line.strip()), "no output")
