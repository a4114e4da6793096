"""The bench stage on a real vLLM, on a model of which only config.json is there.

Its server is killed under load; and the model is measured against itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from quantpress.runtime import environment

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).parents[2]
Start = Callable[..., "subprocess.Popen[bytes]"]

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 384,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 49152,
    "tie_word_embeddings": True,
    "dtype": "bfloat16",
    "max_position_embeddings": 2048,
}
WORKLOAD = """
name: long
description: More rounds than will be waited for.
input_len: {min: 8, max: 16}
output_len: 4
concurrency: [2]
requests: 4
rounds: 60
starts: 1
goodput: {ttft: 10000}
"""
FROM_A_FILE = """
name: same
description: What was asked, and how long the answers are.
prompts: {format: jsonl, path: asked.jsonl}
concurrency: [2]
requests: 8
rounds: 4
starts: 1
engine: {max_model_len: 256, tensor_parallel_size: SPLIT}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "shapes").mkdir()
    (tmp_path / "shapes" / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "long.yaml").write_text(WORKLOAD)
    return tmp_path


def _engines(served: str) -> Iterator[psutil.Process]:
    """The engine processes below the server of this name; vLLM renames them."""
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "serve" in words and served in words:
            yield from (
                child for child in process.children(recursive=True) if "EngineCore" in " ".join(child.cmdline())
            )


def test_a_bench_that_loses_its_server_keeps_the_finished_cells(folder: Path, start: Start) -> None:
    """With --weights dummy, so that this is also a test of those."""
    arguments = ["bench", "w8a8-dynamic", "--weights", "dummy", "--model", str(folder / "shapes"), "--target", "any"]
    running = start(*arguments, "--workload", str(folder / "long.yaml"), "--out", str(folder / "out"))
    here = folder / "out" / "shapes" / "dummy" / "w8a8-dynamic"
    try:
        _wait_for_cells(here, 3, running)
        for engine in list(_engines("w8a8-dynamic")):
            engine.send_signal(signal.SIGKILL)
        assert running.wait(timeout=120) == 1
    finally:
        running.kill()
        running.wait()
    result = json.loads((here / "throughput.json").read_text())
    assert (result["complete"], result["weights"], result["chat"]) == (False, "dummy", None)
    assert "server of w8a8-dynamic" in result["ended"]
    assert len(result["cells"]) >= 2
    assert all(cell["figures"]["failed"] == 0 and cell["figures"]["completed"] == 4 for cell in result["cells"])
    assert result["summary"][0]["candidate"]["request_goodput"] > 0
    assert all("--load-format dummy" in server["command"] for server in result["servers"].values())
    assert all(server["kv_cache_tokens"] > 0 for server in result["servers"].values())
    if not result["machine"]["gpus"]:  # an unquantized model has no kernel whose name vLLM says
        assert [server["kernels"] for server in result["servers"].values()].count(None) == 1
        kernel = ["CPUInt8ScaledMMLinearKernel"]
        assert result["servers"]["candidate"]["kernels"] == {"CompressedTensorsW8A8Int8": kernel}
        assert result["kernels"] == [{"kind": "W8A8", "planned": kernel, "served": kernel, "others": []}]
    assert not list((folder / "out").rglob("*.safetensors"))
    assert not [line for line in _commands() if str(folder) in line]


@pytest.mark.skipif("QUANTPRESS_DOCS" not in os.environ, reason="takes two minutes; `make test-docs` runs it")
def test_the_model_under_another_name_is_no_speedup(folder: Path, real_environment: dict[str, str]) -> None:
    """A fake "faster" candidate: both servers hold the same. The prompts come from a file. On a CPU with two cores the
    model is split over two processes, each with one of them."""
    split = 1 if environment.gpus() or len(os.sched_getaffinity(0)) < 2 else 2
    (folder / "same.yaml").write_text(FROM_A_FILE.replace("SPLIT", str(split)))
    rows = [{"prompt": f"{number} ships sail", "output_tokens": 32} for number in range(8)]
    (folder / "asked.jsonl").write_text("\n".join(map(json.dumps, rows)))
    words = [sys.executable, str(ROOT / "benchmarks" / "same_model.py"), "--weights", "dummy"]
    words += ["--model", str(folder / "shapes"), "--workload", str(folder / "same.yaml"), "--out", str(folder / "out")]
    done = subprocess.run(words, env=real_environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (row,) = map(json.loads, done.stdout.splitlines())
    assert len(row["ratios"]) == 4
    assert row["verdict"] != "faster"
    servers = [json.loads(path.read_text())["servers"] for path in (folder / "out").rglob("throughput.json")]
    said = [server["argv"] for one in servers for server in one.values()]
    assert said and all(f"--tensor-parallel-size={split}" in argv for argv in said)


def _wait_for_cells(folder: Path, number: int, running: subprocess.Popen[bytes], patience: float = 300) -> None:
    deadline = time.monotonic() + patience
    while len(list(folder.glob(".bench.staging-*/new/*.json"))) < number:
        assert running.poll() is None
        assert time.monotonic() < deadline, "the load has not got so far in time"
        time.sleep(0.2)


def _commands() -> list[str]:
    return [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
