"""Shared pieces: a model folder made of headers alone, and the quantpress command as a process of its own."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from quantpress.runtime import console

# A shell starts what runs in its background deaf to SIGINT, and so are all its children; Ctrl-C is tested here too.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).parents[1]
# Tests keep nothing outside the clone.
os.environ["QUANTPRESS_CACHE"] = os.environ.get("QUANTPRESS_CACHE") or str(ROOT / ".cache" / "quantpress")
# Before anything in this process imports the hub's library: a hub that cannot be reached is asked again and again.
os.environ["HF_HUB_OFFLINE"] = "1"
Run = Callable[..., "subprocess.CompletedProcess[str]"]


def write_safetensors(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """A safetensors file of bf16 zeros."""
    header, offset = {}, 0
    for name, shape in shapes.items():
        size = 2
        for dimension in shape:
            size *= dimension
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(offset))


def llama_shapes(
    hidden: int = 64, intermediate: int = 128, layers: int = 2, vocab: int = 32, tied: bool = True
) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocab, hidden), "model.norm.weight": (hidden,)}
    if not tied:
        shapes["lm_head.weight"] = (vocab, hidden)
    for number in range(layers):
        prefix = f"model.layers.{number}"
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            shapes[f"{prefix}.self_attn.{name}.weight"] = (hidden, hidden)
        for name in ("gate_proj", "up_proj"):
            shapes[f"{prefix}.mlp.{name}.weight"] = (intermediate, hidden)
        shapes[f"{prefix}.mlp.down_proj.weight"] = (hidden, intermediate)
        for name in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"{prefix}.{name}.weight"] = (hidden,)
    return shapes


@pytest.fixture
def safetensors() -> Callable[[Path, dict[str, tuple[int, ...]]], None]:
    return write_safetensors


@pytest.fixture
def make_model(tmp_path: Path) -> Callable[..., Path]:
    """Makes a model folder that has headers and a config, and no meaningful weight."""

    def make(name: str = "tiny", tied: bool = True, **sizes: int) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        shapes = llama_shapes(tied=tied, **sizes)
        vocab, hidden = shapes["model.embed_tokens.weight"]
        config = {
            "model_type": "llama",
            "architectures": ["LlamaForCausalLM"],
            "hidden_size": hidden,
            "intermediate_size": shapes["model.layers.0.mlp.up_proj.weight"][0],
            "num_hidden_layers": sizes.get("layers", 2),
            "num_attention_heads": 2,
            "vocab_size": vocab,
            "tie_word_embeddings": tied,
        }
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "tokenizer.json").write_text("{}")
        write_safetensors(folder / "model.safetensors", shapes)
        return folder

    return make


@pytest.fixture
def quantpress_process(tmp_path: Path) -> Run:
    """Runs the quantpress command in an empty folder, offline, as a process."""

    def run(
        *arguments: str, env: dict[str, str] | None = None, cwd: Path = tmp_path, timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        environ = {**os.environ, "QUANTPRESS_CACHE": str(tmp_path / "cache"), **(env or {})}
        command: Sequence[str] = [sys.executable, "-m", "quantpress", *arguments]
        return subprocess.run(
            command, cwd=cwd, env=environ, capture_output=True, text=True, timeout=timeout, check=False
        )

    return run


@pytest.fixture(autouse=True)
def quiet() -> None:
    """No progress from what a test calls in its own process."""
    console.use(quiet=True)
