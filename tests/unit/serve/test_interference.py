"""Whether the machine was left alone while it was measured."""

import json
import subprocess
import sys
import time
from pathlib import Path

from quantpress.artifact.throughput import Disturbance
from quantpress_serve.bench import interference

BURN = "import time\nwhile time.process_time() < 1: pass"


def test_what_our_children_use_is_ours() -> None:
    before = interference.Sample.take()
    subprocess.run([sys.executable, "-c", BURN], check=True)
    assert interference.Sample.take().ours - before.ours >= 0.9


def test_other_programs_are_seen(tmp_path: Path) -> None:
    """Another process watches; to it, this one and what it starts are other programs."""
    code = "import json, sys; from pathlib import Path; from quantpress_serve.bench import interference\n"
    code += (
        f"with interference.watching(Path({str(tmp_path)!r})) as watch: print('ready', flush=True); sys.stdin.read()\n"
    )
    code += "print(json.dumps(watch.seen.dump()))"
    words = [sys.executable, "-c", code]
    started = time.monotonic()
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as watcher:
        assert watcher.stdout is not None
        watcher.stdout.readline()
        subprocess.run([sys.executable, "-c", BURN], check=True)
        shares = json.loads(watcher.communicate()[0])
    least = 0.9 / (time.monotonic() - started) / interference.Sample.take().cores
    known = {name for name, share in shares.items() if share is not None}
    assert known == {"other_work", "stolen", "throttled", "other_gpu_processes"}
    assert shares["other_work"] > least


def test_what_nvidia_smi_says_of_its_clocks() -> None:
    """In the format that --query-gpu=clocks_event_reasons.* prints; no GPU was at hand to record it."""
    cool, hot = "Not Active, Not Active, Not Active, Not Active\n", "Active, Active, Not Active, Not Active\n"
    assert interference.slowed_share(cool * 3) == 0
    assert interference.slowed_share(cool * 3 + hot) == 0.25
    assert interference.slowed_share("") is None
    others = "".join(f"GPU-b, {line}\n" for line in (hot * 3).splitlines())
    assert interference.slowed_share(f"GPU-a, {cool}{others}", {"GPU-b"}) == 0
    assert interference.problems(Disturbance(gpu_slowed=0.25)) == [
        "heat or power held a GPU's clock down for 25% of the time (bound 5%)"
    ]
    assert interference.problems(Disturbance(other_gpu_processes=2)) == ["2 other processes used the GPU"]
