"""Other programs: started under a guard so that none outlives quantpress, their output in a file that errors name."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from quantpress.errors import CapabilityError, InputError, QuantpressError, StageError, of_the_environment
from quantpress.runtime import environment, files, guard
from quantpress.runtime.console import Console, Step, last_activity

_ERRORS: dict[str, type[QuantpressError]] = {
    error.__name__: error for error in (StageError, InputError, CapabilityError)
}


_guards: set[int] = set()  # process ids of the guards that are up
_PROGRESS = "QUANTPRESS_PROGRESS"  # a worker's variable: the file in which it says what it is doing
_UNWRITABLE = 74  # a worker's exit code: not even its error could be written (sysexits.h: EX_IOERR)
_SECRET = re.compile(r"(TOKEN|API_KEY|ACCESS_KEY|SECRET|PASSWORD)$")
# An exception as Python prints it, alone or behind "(EngineCore pid=1) ERROR 01-01 00:00:00 [core.py:1] ".
_EXCEPTION = re.compile(r"^(?:\(.*?\] )?(?P<error>[A-Za-z_][\w.]*(?:Error|Exception|Interrupt)\b.*)$")


@contextmanager
def guarded(
    command: Sequence[str], log: Path | None, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Runs `command`; takes it and its descendants down at the end of the block.

    Its output is appended to `log`, or shown where `log` is None.
    """
    guard.adopt_orphans()
    with ExitStack() as stack:
        stream = None
        if log:
            log.parent.mkdir(parents=True, exist_ok=True)
            stream = stack.enter_context(log.open("ab"))
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", guard.__file__, *command],
            stdin=subprocess.PIPE,
            stdout=stream,
            stderr=stream,
            env={**os.environ, **(env or {})},
            start_new_session=True,
        )
    _guards.add(process.pid)
    try:
        yield process
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait()
        _guards.discard(process.pid)
        if process.returncode < 0:
            take_down_orphans()
        if log:
            scrub(log)


def take_down_orphans() -> None:
    """Kills what a guard left behind that was itself killed: these processes are ours now (guard.adopt_orphans)."""
    import psutil  # 30 ms: hardly ever needed

    while orphans := [child for child in psutil.Process().children() if child.pid not in _guards]:
        tree = [below for orphan in orphans for below in (orphan, *orphan.children(recursive=True))]
        for one in tree:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        psutil.wait_procs(tree, timeout=10)


def secrets() -> list[str]:
    """Values of environment variables that are named like secrets."""
    names = [name for name in os.environ if _SECRET.search(name.upper())]
    return [value for name in names if len(value := os.environ[name]) >= 8]


def scrub(path: Path) -> None:
    """Replaces what a tool may have printed of the environment's secrets; a log without one is left as it is."""
    text = path.read_bytes()
    clean = text
    for secret in secrets():
        clean = clean.replace(os.fsencode(secret), b"***")
    if clean != text:
        path.write_bytes(clean)


def run(command: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> int:
    """Runs `command` to its end. Returns its exit code; 128 + N for one that signal N killed."""
    with guarded(command, log, env) as process:
        return process.wait()


def call_worker(module: str, job: Mapping[str, Any], folder: Path, console: Console, title: str, log: Path) -> Any:
    """Runs `python -m module JOB RESULT` in the quantize environment and returns the JSON that it wrote.

    Raises what the worker reported, or StageError with the last line of its log if it died.
    """
    name = module.rpartition(".")[2]
    job_file, result_file = folder / f"{name}.job.json", folder / f"{name}.result.json"
    progress = folder / f"{name}.progress"
    files.write_json(job_file, job)
    with console.step(title, log, lambda: _activity(progress, log)) as step:
        env = worker_environment() | {_PROGRESS: str(progress)}
        code = run([sys.executable, "-m", module, str(job_file), str(result_file)], log, env)
        result = _result(result_file, code, name, log, step)
    for path in (job_file, result_file, progress):
        path.unlink(missing_ok=True)
    return result


def report_progress(text: str) -> None:
    """Called by a worker: what it is doing, shown before what the tool in its log says of itself."""
    if path := os.environ.get(_PROGRESS):
        files.write_text(Path(path), text)


def _activity(progress: Path, log: Path) -> str:
    known = progress.read_text(encoding="utf-8") if progress.exists() else ""
    return f"{known} {last_activity(log)}".strip()


def _result(result_file: Path, code: int, name: str, log: Path, step: Step) -> Any:
    result = files.read_json(result_file) if result_file.exists() else None
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
    step.result = str(result.pop("note", "")) if isinstance(result, dict) else ""
    return result


def errors_in(log: Path) -> list[str]:
    """The lines of a log that look like exceptions (with vLLM's prefixes cut off), or its last line."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    found = [match["error"][:400] for line in lines if (match := _EXCEPTION.match(line))]
    return found or [lines[-1][:400] if lines else "it printed nothing"]


def last_error(log: Path) -> str:
    return errors_in(log)[-1]


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
        known = of_the_environment(error)
        if known is None:
            raise
        traceback.print_exc()  # into the log
        result = {"error": type(known).__name__, "message": known.message, "hint": known.hint}
    try:
        files.write_json(result_file, result)
    except OSError:
        return _UNWRITABLE
    return 0
