"""The embedded model, fetched and converted once a session; the cache of the clone is used if it is there."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

# Tests that run side by side share the cores. Each with a thread on every core, they would wait for one another at
# every barrier of every product.
if (beside := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))) > 1:
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // beside)))

CACHE = Path(os.environ["QUANTPRESS_CACHE"]).resolve()  # tests/conftest.py names it where nobody does
Run = Callable[..., "subprocess.CompletedProcess[str]"]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "quantpress", *arguments]


def environ() -> dict[str, str]:
    """Offline, and making whatever a test asks for: tests that serve name a target themselves (--target auto)."""
    return {**os.environ, "QUANTPRESS_CACHE": str(CACHE), "QUANTPRESS_TARGET": "any"}


@pytest.fixture(scope="session")
def real_environment() -> dict[str, str]:
    return environ()


@pytest.fixture(scope="session")
def real() -> Run:
    """Runs the quantpress command on real parts; fails the test, showing its output, on an unexpected exit code."""

    def run(
        *arguments: str, expect: int = 0, timeout: float = 900, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        whole = {**environ(), **(env or {})}
        done = subprocess.run(
            command(*arguments), env=whole, capture_output=True, text=True, timeout=timeout, check=False
        )
        assert done.returncode == expect, f"{' '.join(arguments)}\n{done.stdout}\n{done.stderr}"
        return done

    return run


@pytest.fixture
def start() -> Callable[..., subprocess.Popen[bytes]]:
    """Starts the quantpress command and returns at once."""

    def run(*arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(command(*arguments), env=environ(), stderr=subprocess.DEVNULL)

    return run


@pytest.fixture(scope="session")
def embedded_model() -> Path:
    """The folder of the embedded model."""
    from quantpress.model import source as model
    from quantpress.model.source import find_model

    os.environ["QUANTPRESS_CACHE"] = str(CACHE)
    return find_model(model.EMBEDDED).path


@pytest.fixture(scope="session")
def make_llama(tmp_path_factory: pytest.TempPathFactory, embedded_model: Path) -> Callable[..., Path]:
    """Makes a Llama with two layers of random weights and the embedded model's tokenizer."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    def make(name: str, hidden: int, intermediate: int, heads: int = 4) -> Path:
        folder = tmp_path_factory.mktemp("models") / name
        torch.manual_seed(0)
        config = LlamaConfig(
            hidden_size=hidden,
            intermediate_size=intermediate,
            num_hidden_layers=2,
            num_attention_heads=heads,
            num_key_value_heads=2,
            vocab_size=49152,
            tie_word_embeddings=True,
        )
        LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
        AutoTokenizer.from_pretrained(embedded_model).save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def two_layers(make_llama: Callable[..., Path]) -> Path:
    """A small Llama whose widths group size 64 divides and 128 does not."""
    return make_llama("two-layers", 192, 320, heads=6)


@pytest.fixture
def least_load(tmp_path: Path) -> Path:
    """A workload with as little load as makes a figure."""
    path = tmp_path / "least.yaml"
    path.write_text(
        "name: least\ndescription: As little load as makes a figure.\ninput_len: 16\noutput_len: 4\n"
        "concurrency: [1]\nrequests_per_stream: 2\nrounds: 1\n"
    )
    return path
