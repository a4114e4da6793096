"""What people give `make` reaches the command as it is: as one word, whatever it holds."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
# `make test` runs this: what it tells the makes that it starts is not for ours.
ALONE = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
ODD = {
    "RECIPE": "my recipes/it's 4 bits.yaml",
    "MODEL": '/models/a "b" (c) $d `e`',
    "OUT": "out & in;ls",
    "SUITE": "a\\b.yaml",
    "WORKLOAD": "*",
}


@pytest.mark.parametrize("target", ["quantize", "evaluate", "bench", "run", "report", "package", "serve", "demo"])
@pytest.mark.parametrize("from_environment", [False, True], ids=["command line", "environment"])
def test_every_target_hands_on_names_as_they_are(target: str, from_environment: bool) -> None:
    given = [f"{name}={value}" for name, value in ODD.items()]
    command = ["env", *given, "make"] if from_environment else ["make", *given]
    command += ["-n", "VLLM=vllm", target]
    done = subprocess.run(command, cwd=ROOT, env=ALONE, capture_output=True, text=True, check=True)
    words = shlex.split(done.stdout.splitlines()[-1])
    assert words[:2] == [".venv/bin/quantpress", target]
    assert words[words.index("--model") + 1] == ODD["MODEL"]
    assert words[words.index("--out") + 1] == ODD["OUT"]
    if target != "report":
        assert words[2] == ODD["RECIPE"]
    if target in ("evaluate", "run"):
        assert words[words.index("--suite") + 1] == ODD["SUITE"]
    if target in ("bench", "run"):
        assert words[words.index("--workload") + 1] == ODD["WORKLOAD"]


def test_a_python_with_a_space_in_its_path_is_called() -> None:
    command = ["make", "-n", "PYTHON=/my tools/python3.11", "locks"]
    done = subprocess.run(command, cwd=ROOT, env=ALONE, capture_output=True, text=True, check=True)
    assert shlex.split(done.stdout.splitlines()[-1])[:2] == ["/my tools/python3.11", "scripts/make_locks.py"]
