"""The table of `make bench-peers`."""

import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    return runpy.run_path(str(BENCHMARKS / "peers.py"))


def test_every_peer_has_a_script_and_requirements_that_name_its_torch(peers: dict[str, Any]) -> None:
    for peer in peers["PEERS"].values():
        assert peer.script.is_file()
        pinned = [line for line in peer.requirements.read_text().splitlines() if not line.startswith("#")]
        assert all("==" in line for line in pinned)
        assert pinned[0].startswith("torch==")


def test_what_a_process_took_counts_its_children(peers: dict[str, Any], tmp_path: Path) -> None:
    busy = "import time\nwhile time.process_time() < 0.2: pass\nx = bytearray(50_000_000)"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {busy!r}]); print('done'); sys.exit(3)"
    made = peers["once"].__globals__["measured"]([sys.executable, "-c", outer], "inputs", tmp_path / "log", tmp_path)
    assert (made.exit_code, made.inputs) == (3, "inputs")
    assert made.processor_seconds > 0.2
    assert made.peak_bytes > 50_000_000
    assert peers["last_line"](tmp_path / "log") == "done"
    assert any(line.startswith("torch==") for line in peers["told_of"](made))


def test_the_page_names_who_is_missing_and_how_each_was_made(peers: dict[str, Any]) -> None:
    versions = ["gptqmodel==7.6.0", "numpy==2.2.6", "torch==2.13.0"]
    made = {
        name: peers["Made"](
            inputs="",
            command=["python", f"with_{name}.py"],
            exit_code=0,
            seconds=1,
            processor_seconds=1,
            peak_bytes=1,
            installed=versions,
        )
        for name in ("one", "other")
    }
    rows = [[["one", *["-"] * (len(peers[header]) - 1)]] for header in ("MADE", "SERVED")]
    page = peers["page"](*rows, {"other": "vLLM cannot load it"}, made)
    assert page.count("\n| one | - |") == 2
    assert "**other is missing**: vLLM cannot load it" in page
    assert "other: `python with_other.py` with gptqmodel==7.6.0, torch==2.13.0\n" in page


def test_figures_over_the_positions_of_a_text_are_paired(peers: dict[str, Any]) -> None:
    near, far = [[0.1, 0.1], [0.3, 0.3]], [[0.2, 0.2], [0.4, 0.4]]
    assert peers["mean"](near).value == pytest.approx(0.2)
    apart = peers["mean_difference"](far, near)
    assert apart.value == pytest.approx(0.1)
    assert apart.interval == pytest.approx((0.1, 0.1))  # the sequences differ, what is between both does not
    low, high = peers["mean"](near).interval
    assert low < 0 < 0.2 < high
