"""Makes each job's checkpoint twice: in one go, and stopped after so many kept blocks and begun again, several times.

The second time its weights may stay on the disk (`offload`).

`python stop_many.py JOBS DONE`: by name [job, stops], and by name both results. One process for all, since its imports
cost more than the work; tests/e2e/test_going_on.py kills real ones.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from unittest import mock

from quantpress.quantize import going_on_worker
from quantpress.quantize.oneshot_worker import quantize_and_hash
from quantpress.quantize.workers import OneshotJob


class Killed(BaseException):
    """Stands in for a kill."""


@contextmanager
def stopping_after(blocks: int) -> Iterator[None]:
    """Ends what runs in here when so many blocks were written."""
    write, written = going_on_worker._write, 0

    def counting(*arguments: object) -> None:
        nonlocal written
        write(*arguments)
        written += 1
        if written == blocks:
            raise Killed

    with mock.patch.object(going_on_worker, "_write", counting), suppress(Killed):
        yield
        raise AssertionError(f"nothing stopped it after {blocks} blocks; {written} were written")


def made(job: OneshotJob, output: str) -> OneshotJob:
    folder = job.common.output / output
    folder.mkdir(parents=True, exist_ok=True)
    if job.offload:
        shutil.rmtree(job.offload, ignore_errors=True)  # each run has one of its own
    return job.model_copy(update={"common": job.common.model_copy(update={"output": folder})})


if __name__ == "__main__":
    results = {}
    for name, (data, stops) in json.loads(Path(sys.argv[1]).read_text()).items():
        job = OneshotJob.model_validate(data)
        whole = quantize_and_hash(made(job.model_copy(update={"keep": None, "offload": None}), "whole"))
        for stop in stops:
            with stopping_after(stop):
                quantize_and_hash(made(job, "stopped"))
        results[name] = [whole.dump(), quantize_and_hash(made(job, "stopped")).dump()]
    Path(sys.argv[2]).write_text(json.dumps(results))
