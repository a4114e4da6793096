"""kill -9 at every single step of publishing: what is seen afterwards is the old folder or the new one, whole."""

import subprocess
import sys
from pathlib import Path

# Kills itself at the N-th thing it does to a file (audit events: open, os.rename, os.mkdir, shutil.rmtree, ...), and
# prints how many there were if it gets through.
CHILD = """
import os, signal, sys
from pathlib import Path
from quantpress.runtime import atomic
from quantpress.runtime import locks

final, fatal, seen = Path(sys.argv[1]), int(sys.argv[2]), 0

def hook(event, arguments):
    global seen
    if event == "open" or event.startswith(("os.", "shutil.", "ctypes.")):
        seen += 1
        if seen == fatal:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(hook)
with locks.lock(final), atomic.staging(final) as staged:
    for name in ("one", "two", "three"):
        (staged / name).write_text("new")
    atomic.write_json(staged / "manifest.json", "new")
    atomic.publish(staged, final, lambda _: [])
print(seen)
"""
NAMES = ["manifest.json", "one", "three", "two"]


def die_at(step: int, final: Path) -> str:
    done = subprocess.run([sys.executable, "-c", CHILD, str(final), str(step)], capture_output=True, text=True)
    assert done.returncode in (0, -9), done.stderr
    return done.stdout


def contents(final: Path) -> set[str]:
    assert sorted(path.name for path in final.iterdir()) == NAMES
    return {path.read_text().strip().strip('"') for path in final.iterdir()}


def test_a_kill_at_any_step_leaves_the_old_folder_or_the_new_one(tmp_path: Path) -> None:
    steps = int(die_at(0, tmp_path / "first"))
    assert steps > 10
    final, seen = tmp_path / "artifact", []
    for step in range(1, steps + 20):
        if contents(final) == {"new"} if final.exists() else False:
            for path in final.iterdir():
                path.write_text("old")
        elif not final.exists():
            final.mkdir()
            for name in NAMES:
                (final / name).write_text("old")
        if die_at(step, final):
            break
        seen.append(contents(final))
    assert set(map(frozenset, seen)) == {frozenset({"old"}), frozenset({"new"})}
    assert contents(final) == {"new"}
    assert sorted(path.name for path in tmp_path.glob(".artifact*")) == [".artifact.lock"]
