"""Workers: Python programs that load the heavy libraries, each with one job and one result."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import ValidationError

from quantpress.errors import CapabilityError, InputError, QuantpressError, StageError, of_the_environment, one_line
from quantpress.runtime import atomic, console, environment, locks
from quantpress.runtime.console import Step, last_activity
from quantpress.runtime.process import last_error, run
from quantpress.runtime.records import Record

_ERRORS: dict[str, type[QuantpressError]] = {
    error.__name__: error for error in (StageError, InputError, CapabilityError)
}

_PROGRESS = "QUANTPRESS_PROGRESS"  # a worker's variable: the file in which it says what it is doing

_PROCESSES = "QUANTPRESS_PROCESSES"  # a worker's variable where it is one of several: how many they are
_PATIENCE_S = 30.0  # for what the first of them has to say

_UNWRITABLE = 74  # a worker's exit code: not even its error could be written (sysexits.h: EX_IOERR)


class Job(Record):
    """What a worker is asked to do."""


class Result(Record):
    """What it found; `note` is shown beside the finished step."""

    note: str = ""


J = TypeVar("J", bound=Job)
R = TypeVar("R", bound=Result)


@dataclass(frozen=True)
class Worker(Generic[J, R]):
    """A program of ours that runs as `python -m module JOB RESULT`, because it loads what we do not want to load."""

    module: str
    job: type[J]
    result: type[R]

    def run(self, job: J, folder: Path, title: str, log: Path, processes: int = 1) -> R:
        """Runs it to its end, with its files in `folder` and what it prints in `log`, in so many processes that work
        together.

        Raises what the worker reported, or StageError with the last line of its log if it died.
        """
        return self.result.model_validate(call_worker(self.module, job.dump(), folder, title, log, processes))

    def answer(self, kept: Path, job: J, title: str) -> R:
        """The answer that the file `kept` holds; it is asked for where there is none yet, or a damaged one.

        Wrong input, an InputError, leaves nothing behind.
        """
        if known := self._known(kept):
            return known
        with locks.turn(kept), atomic.staging(kept.with_suffix("")) as staged:
            if known := self._known(kept):
                return known
            log = kept.with_suffix(".log")
            log.unlink(missing_ok=True)
            with without_log_of_wrong_input(log):
                answer = self.run(job, staged, title, log)
            atomic.write_kept(kept, answer.dump())
            log.unlink(missing_ok=True)
        return answer

    def _known(self, kept: Path) -> R | None:
        try:
            return self.result.model_validate(atomic.read_kept(kept))
        except ValidationError:  # of another version too, and None
            return None

    def main(self, work: Callable[[J], R]) -> int:
        """The worker's own side: reads the job, does `work`, and writes its result or the error that it raised."""
        return worker_main(lambda job: work(self.job.model_validate(job)).dump())


@contextmanager
def without_log_of_wrong_input(log: Path) -> Iterator[None]:
    """Removes the log if the input was wrong: the error says all, and wrong input leaves nothing behind."""
    try:
        yield
    except InputError as error:
        log.unlink(missing_ok=True)
        error.log = None
        raise


def call_worker(module: str, job: Mapping[str, Any], folder: Path, title: str, log: Path, processes: int = 1) -> Any:
    """Runs `python -m module JOB RESULT` in the quantize environment and returns the JSON that it wrote; by torchrun
    where several processes are to work together, of which the first writes.

    Raises what the worker reported, or StageError with the last line of its log if it died.
    """
    name = module.rpartition(".")[2]
    job_file, result_file = folder / f"{name}.job.json", folder / f"{name}.result.json"
    progress = folder / f"{name}.progress"
    atomic.write_json(job_file, job)
    with console.step(title, log, lambda: _activity(progress, log)) as step:
        env = worker_environment() | {_PROGRESS: str(progress)} | _of_several(processes)
        code = run([*_python(processes), module, str(job_file), str(result_file)], log, env)
        result = _result(result_file, code, name, log, step)
    for path in (job_file, result_file, progress):
        path.unlink(missing_ok=True)
    return result


def _python(processes: int) -> list[str]:
    """The words before the name of a module that is to run in so many processes."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "--module"]
    return [sys.executable, *(torchrun if processes > 1 else ["-m"])]


def _of_several(processes: int) -> dict[str, str]:
    """The settings of each of several processes: where nothing is said, they share the cores."""
    if processes == 1:
        return {}
    threads = max(1, len(os.sched_getaffinity(0)) // processes)
    return {_PROCESSES: str(processes), "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads))}


def processes() -> int:
    """How many processes do the work of this worker together."""
    return int(os.environ.get(_PROCESSES, "1"))


def rank() -> int:
    """Which of them this one is, from 0."""
    return int(os.environ["RANK"]) if processes() > 1 else 0


def report_progress(text: str) -> None:
    """Called by a worker: what it is doing, shown before what the tool in its log says of itself."""
    if path := os.environ.get(_PROGRESS):
        atomic.write_text(Path(path), text)


def _activity(progress: Path, log: Path) -> str:
    known = progress.read_text(encoding="utf-8") if progress.exists() else ""
    return f"{known} {last_activity(log)}".strip()


def _result(result_file: Path, code: int, name: str, log: Path, step: Step) -> Any:
    result = atomic.read_json(result_file) if result_file.exists() else None
    if isinstance(result, dict) and "error" in result:
        raise _ERRORS[result["error"]](result["message"], hint=result["hint"], log=log)
    if code == _UNWRITABLE:
        raise CapabilityError(
            f"the {name} worker could not write its result to {result_file.parent}: no space left, or read-only",
            hint="free some space, or write elsewhere with --out",
        )
    if code == 128 + signal.SIGKILL:
        raise StageError(
            f"the {name} worker was killed (signal 9) after {step.elapsed:.0f} s, most likely for lack of memory",
            hint="use a machine with more memory, or a smaller calibration.batch_size",
            log=log,
        )
    if code != 0 or result is None:
        raise StageError(
            f"the {name} worker failed with exit code {code}: {last_error(log)}",
            hint="read the log; its end holds the traceback",
            log=log,
        )
    step.result = str(result.get("note", "")) if isinstance(result, dict) else ""
    return result


def worker_environment() -> dict[str, str]:
    """Settings that workers need: no telemetry, and numbers that do not depend on hash order."""
    return {
        "DO_NOT_TRACK": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PYTHONHASHSEED": "0",
        "PYTHONUNBUFFERED": "1",
        "TOKENIZERS_PARALLELISM": "false",
        **environment.waiting(),
    }


def worker_main(work: Any) -> int:
    """Entry point of a worker: reads the job, runs `work(job)`, writes its result or the quantpress error it raised."""
    job_file, result_file = Path(sys.argv[1]), Path(sys.argv[2])
    try:
        result = work(json.loads(job_file.read_text(encoding="utf-8")))
    except QuantpressError as error:
        result = {"error": type(error).__name__, "message": error.message, "hint": error.hint}
    except Exception as error:
        traceback.print_exc()  # into the log
        known = of_the_environment(error) or StageError(
            f"the {Path(sys.argv[0]).stem} failed: {type(error).__name__}: {one_line(error)}",
            hint="read the log; its end holds the traceback",
        )
        result = {"error": type(known).__name__, "message": known.message, "hint": known.hint}
    if rank():
        return _behind_the_first(result, result_file)
    try:
        atomic.write_json(result_file, result)
    except OSError:
        return _UNWRITABLE
    return int(processes() > 1 and "error" in result)  # torchrun ends the others then, who may wait for this one


def _behind_the_first(result: dict[str, Any], result_file: Path) -> int:
    """The exit code of a process that is not the first. torchrun ends all when one fails: if what failed here fails in
    the first one too, that one has the word."""
    if "error" not in result:
        return 0
    ends = time.monotonic() + _PATIENCE_S
    while not result_file.exists() and time.monotonic() < ends:
        time.sleep(0.1)
    return 1
