"""Other programs: none outlives its owner, and what they say when they fail reaches the user."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from quantpress.errors import CapabilityError, InputError, StageError, first_line
from quantpress.runtime import guard, locks, process, worker
from quantpress.runtime.console import last_activity

# A child that starts a grandchild in a session of its own, as servers do, and that ignores SIGTERM.
STUBBORN = """
import subprocess, sys, time, signal, os
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"], start_new_session=True)
open(sys.argv[1], "w").write(f"{os.getpid()} {child.pid}")
time.sleep(300)
"""


def _pids(path: Path) -> list[int]:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if path.exists() and len(path.read_text().split()) == 2:
            return [int(pid) for pid in path.read_text().split()]
        time.sleep(0.05)
    raise AssertionError("the child did not start")


def _gone(pids: list[int], timeout: float = 20) -> bool:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids):
            return True
        time.sleep(0.1)
    return False


def test_leaving_the_block_takes_down_the_whole_tree(tmp_path: Path) -> None:
    command = [sys.executable, "-c", STUBBORN, str(tmp_path / "pids")]
    with process.guarded(command, tmp_path / "log", {"QUANTPRESS_GRACE_S": "1"}):
        pids = _pids(tmp_path / "pids")
        assert all(psutil.pid_exists(pid) for pid in pids)
    assert _gone(pids)


def test_a_killed_guard_leaves_no_process_either(tmp_path: Path) -> None:
    other = [sys.executable, "-c", "import time; time.sleep(300)"]
    with process.guarded(other, tmp_path / "other") as beside:
        with process.guarded([sys.executable, "-c", STUBBORN, str(tmp_path / "pids")], tmp_path / "log") as running:
            pids = _pids(tmp_path / "pids")
            running.kill()
        assert _gone(pids, timeout=1)
        assert beside.poll() is None


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_owner_leaves_no_process(number: int, tmp_path: Path) -> None:
    code = f"""
import sys
import threading
from pathlib import Path
from quantpress.runtime import process
command = [sys.executable, "-c", {STUBBORN!r}, {str(tmp_path / "pids")!r}]
with process.guarded(command, Path({str(tmp_path / "log")!r}), {{"QUANTPRESS_GRACE_S": "1"}}) as running:
    running.wait()
"""
    owner = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    pids = _pids(tmp_path / "pids")
    owner.send_signal(number)
    owner.wait()
    assert _gone(pids)


@pytest.mark.parametrize(
    ("code", "expected"), [("raise SystemExit(7)", 7), ("import os; os.kill(os.getpid(), 9)", 137)]
)
def test_exit_codes_come_through(code: str, expected: int, tmp_path: Path) -> None:
    assert process.run([sys.executable, "-c", code], tmp_path / "log") == expected


def test_a_command_that_does_not_exist(tmp_path: Path) -> None:
    assert process.run(["/does/not/exist"], tmp_path / "log") == 127
    assert "/does/not/exist" in (tmp_path / "log").read_text()


def _worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> object:
    (tmp_path / "fake_worker.py").write_text(f"from quantpress.runtime.worker import worker_main\n{body}\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    return worker.call_worker("fake_worker", {"x": 1}, tmp_path, "working", tmp_path / "log")


def test_a_worker_returns_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _worker(tmp_path, monkeypatch, "worker_main(lambda job: {'y': job['x'] + 1})") == {"y": 2}
    assert not list(tmp_path.glob("*.json"))


def test_of_several_workers_the_first_one_alone_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANTPRESS_PROCESSES", "2")
    body = "raise SystemExit(worker_main(lambda job: {'y': 1}))"
    monkeypatch.setenv("RANK", "0")
    assert _worker(tmp_path, monkeypatch, body) == {"y": 1}
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(StageError, match="exit code 0"):
        _worker(tmp_path, monkeypatch, body)


def test_what_fails_in_all_of_several_workers_is_said_by_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others wait for its word: torchrun ends all when one fails."""
    (tmp_path / "result").write_text("{}")
    assert worker._behind_the_first({"error": "InputError"}, tmp_path / "result") == 1
    monkeypatch.setattr(worker, "_PATIENCE_S", 0.0)
    assert worker._behind_the_first({"error": "InputError"}, tmp_path / "none") == 1


def test_a_workers_own_error_keeps_its_class_and_hint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = "from quantpress.errors import InputError\ndef work(job): raise InputError('bad', hint='do this')\n"
    with pytest.raises(InputError, match="bad") as caught:
        _worker(tmp_path, monkeypatch, body + "worker_main(work)")
    assert caught.value.hint == "do this"
    assert caught.value.log == tmp_path / "log"


@pytest.mark.parametrize(
    ("raised", "words"),
    [
        ("OSError(28, 'No space')", "No space"),
        ("Exception('I/O error: No space left on device (os error 28)')", "No space left"),
        ("RuntimeError('[enforce fail] DefaultCPUAllocator: can\\'t allocate memory: 9 bytes')", "too little memory"),
        ("MemoryError()", "too little memory"),
        ("PermissionError(13, 'Permission denied', 'x')", "Permission denied"),
    ],
)
def test_what_the_machine_lacks_is_said_of_a_worker(
    raised: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CapabilityError, match=words):
        _worker(tmp_path, monkeypatch, f"def work(job): raise {raised}\nraise SystemExit(worker_main(work))")


def test_a_worker_that_cannot_even_write_its_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = "from quantpress.runtime import atomic\ndef full(*_): raise OSError(28, 'full')\natomic.write_json = full\n"
    with pytest.raises(CapabilityError, match="could not write its result"):
        _worker(tmp_path, monkeypatch, full + "raise SystemExit(worker_main(lambda job: {}))")


def test_a_worker_that_dies_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StageError, match="exit code 1: ValueError: the reason"):
        _worker(tmp_path, monkeypatch, "raise ValueError('the reason')")


def test_a_worker_killed_by_the_kernel_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StageError, match=r"killed .signal 9.*lack of memory"):
        _worker(tmp_path, monkeypatch, "import os; os.kill(os.getpid(), 9)")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\n(3/31): Calibrating:  40%|####     | 1/8\r(3/31): Calibrating:  50%|#", "(3/31): Calibrating 50%"),
        ("Running:  40%|####     | 4/10 [01:10<01:45,  0.1it/s]", "Running 40%, 01:45 left"),
        ("one\n\n\x1b[32mtwo\x1b[0m\n", "two"),
        ("2026-01-01T00:00:00.1 | fn | INFO - Quantizing q_proj\n", "Quantizing q_proj"),
        ("(APIServer pid=7) INFO 11-22 16:37:18 [a.py:1] Route\n", "Route"),
        ("", ""),
    ],
)
def test_progress_is_read_off_a_log(text: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "log").write_text(text)
    assert last_activity(tmp_path / "log") == expected


def test_the_guard_needs_nothing_installed() -> None:
    done = subprocess.run([sys.executable, "-I", "-S", guard.__file__, "true"], stdin=subprocess.PIPE, check=False)
    assert done.returncode == 0
    assert os.path.exists(guard.__file__)  # noqa: PTH110 -- the path is a plain string here


def test_an_exception_of_several_lines_keeps_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = "GenerationConfig is invalid: \n- `temperature`: 0.6\n\n- `top_p`"
    with pytest.raises(StageError, match=r"ValueError: GenerationConfig is invalid: - `temperature`: 0.6 - `top_p`$"):
        _worker(
            tmp_path, monkeypatch, f"def work(job): raise ValueError({said!r})\nraise SystemExit(worker_main(work))"
        )
    assert "Traceback" in (tmp_path / "log").read_text()


@pytest.mark.parametrize(
    ("after", "more"),
    [
        ("- `temperature`: 0.6\n\n- `top_p`: 0.9\n", " - `temperature`: 0.6 - `top_p`: 0.9"),
        ("Traceback (most recent call last):\n", ""),
        ("(EngineCore pid=1) ERROR 01-01 00:00:00 [core.py:1] over\n", ""),
        ("loading:  50%|#####     |\n", ""),
        ("2026-11-27T11:42:14 | f | WARNING - something\n", ""),
    ],
)
def test_the_last_exception_in_a_log_brings_its_message(after: str, more: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(f"KeyError: 'a'\nmore\nValueError: it is invalid:\n{after}")
    assert process.errors_in(log) == ["KeyError: 'a'", f"ValueError: it is invalid:{more}"]


def test_what_a_log_says_is_bounded(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("ValueError: a\n" + "b" * 5000)
    assert len(process.last_error(tmp_path / "log")) == 400


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("one\ntwo", "one"),
        ("it is invalid:\n- a\n\n- b", "it is invalid: - a - b"),
        ("", "ValueError"),
        (":\n" + "x" * 999, None),
    ],
)
def test_a_line_that_promises_a_reason_brings_it(text: str, wanted: str | None) -> None:
    found = first_line(ValueError(text))
    assert found == wanted if wanted else len(found) == 400


def test_what_a_tool_prints_is_utf_8_whatever_the_terminal_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("PYTHONIOENCODING", "ascii"), ("LC_ALL", "POSIX"), ("PYTHONUTF8", "0")):
        monkeypatch.setenv(name, value)
    code = "print('gr\\u00f6\\u00dfer'); print(open(__import__('sys').argv[1]).read())"
    (tmp_path / "text").write_text("größer", encoding="utf-8")
    assert process.run([sys.executable, "-c", code, str(tmp_path / "text")], tmp_path / "log") == 0
    assert (tmp_path / "log").read_text(encoding="utf-8") == "größer\ngrößer\n"


def test_a_log_that_is_not_there_is_not_named(tmp_path: Path) -> None:
    error = StageError("it failed", hint="read the log; its end holds the traceback", log=tmp_path / "log")
    assert error.render() == "error: it failed"
    assert process.last_error(tmp_path / "log") == "it printed nothing"
    (tmp_path / "log").write_text("ValueError: the reason")
    assert error.render().endswith(f"  next: read the log; its end holds the traceback\n  log:  {tmp_path / 'log'}")


def test_one_answer_is_asked_for_at_a_time(tmp_path: Path) -> None:
    held, free = threading.Event(), threading.Event()

    def other() -> None:
        with locks.turn(tmp_path / "a.json"):
            held.set()
            free.wait(10)
            (tmp_path / "a.json").write_text("made")

    first = threading.Thread(target=other)
    first.start()
    held.wait(10)
    threading.Timer(0.3, free.set).start()
    with locks.turn(tmp_path / "a.json"):
        assert (tmp_path / "a.json").read_text() == "made"
    first.join()


def _tree(owner: int) -> list[int]:
    """The guard's two processes, below their owner."""
    (outer,) = psutil.Process(owner).children()
    return [outer.pid, *(child.pid for child in outer.children())]


@pytest.mark.parametrize("also", [1, 2])
def test_an_owner_and_its_guard_killed_at_once_leave_no_command(also: int, tmp_path: Path) -> None:
    """With one of the guard's two processes all goes; with both, what the guard itself started."""
    code = f"""
from pathlib import Path
import sys
from quantpress.runtime import process
command = [sys.executable, "-c", {STUBBORN!r}, {str(tmp_path / "pids")!r}]
with process.guarded(command, Path({str(tmp_path / "log")!r}), {{"QUANTPRESS_GRACE_S": "0.2"}}) as running:
    running.wait()
"""
    owner = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    command, below = _pids(tmp_path / "pids")
    guards = _tree(owner.pid)
    assert len(guards) == 2
    for pid in (owner.pid, *guards[:also]):
        os.kill(pid, signal.SIGKILL)
    owner.wait()
    try:
        assert _gone([command] if also == 2 else [command, below])
    finally:
        if psutil.pid_exists(below):
            os.kill(below, signal.SIGKILL)


def test_a_stopped_guard_does_not_block_the_exit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_GUARDS_OWN_S", 0.3)
    command = [sys.executable, "-c", STUBBORN, str(tmp_path / "pids")]
    with process.guarded(command, tmp_path / "log", {"QUANTPRESS_GRACE_S": "0.2"}) as running:
        pids = _pids(tmp_path / "pids")
        for pid in (running.pid, *(child.pid for child in psutil.Process(running.pid).children())):
            os.kill(pid, signal.SIGSTOP)
        began = time.monotonic()
    assert time.monotonic() - began < 10
    assert _gone(pids)
