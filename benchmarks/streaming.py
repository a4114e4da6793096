"""Quantizing a model that is larger than the memory: peak of the whole process tree, and time.

    make bench-streaming ARGS="--gigabytes 14 --limit 6 fp8-dynamic"

Makes a random model in the shapes of a Llama with 8 billion parameters and as many layers as --gigabytes take, in files
of 2 GB, without ever holding it; then runs `quantpress quantize` on it for each recipe in a control group whose memory
is limited to --limit GB. Where no such group can be made (root is needed), the processes run without a limit, and the
rows say so. `peak_gb` is the greatest sum of the processes' proportional set sizes (PSS, mapped files included),
sampled ten times a second; `resident_gb` that of what only memory holds (no page of a file). Both models go when done.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from quantpress.model import headers
from quantpress.model import source as models
from quantpress.model.headers import Tensor
from quantpress.model.source import find_model
from timing import QUIET

HIDDEN, INTERMEDIATE, KEY_VALUE, VOCABULARY = 4096, 14336, 1024, 128256
LAYER = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (KEY_VALUE, HIDDEN),
    "self_attn.v_proj": (KEY_VALUE, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (INTERMEDIATE, HIDDEN),
    "mlp.up_proj": (INTERMEDIATE, HIDDEN),
    "mlp.down_proj": (HIDDEN, INTERMEDIATE),
    "input_layernorm": (HIDDEN,),
    "post_attention_layernorm": (HIDDEN,),
}
FILE = 2_000_000_000  # bytes


def shapes(gigabytes: float) -> dict[str, tuple[int, ...]]:
    """The tensors of a model of at least so many GB in bf16."""
    found: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (VOCABULARY, HIDDEN),
        "lm_head.weight": (VOCABULARY, HIDDEN),
        "model.norm.weight": (HIDDEN,),
    }
    number = 0
    while sum(size(shape) for shape in found.values()) < gigabytes * 1e9:
        found |= {f"model.layers.{number}.{part}.weight": shape for part, shape in LAYER.items()}
        number += 1
    return found


def size(shape: tuple[int, ...]) -> int:
    """Bytes in 16 bits."""
    return 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)


def make(folder: Path, gigabytes: float) -> None:
    """Writes the model tensor by tensor, of random numbers from 2^-7 to 2^-5 and their negatives."""
    import numpy

    random = numpy.random.default_rng(0)
    wanted = shapes(gigabytes)

    def numbers(name: str) -> bytes:
        if "norm" in name:
            return b"\x80\x3f" * wanted[name][0]
        rows, columns = wanted[name]
        parts = (numpy.frombuffer(random.bytes(2 * columns), "<u2") for _ in range(rows))
        return b"".join(bytes((part & 0x80FF) | 0x3C00) for part in parts)

    files: list[dict[str, Tensor]] = [{}]
    for name, shape in wanted.items():
        if files[-1] and sum(tensor.nbytes for tensor in files[-1].values()) + size(shape) > FILE:
            files.append({})
        files[-1][name] = Tensor("BF16", shape, size(shape))
    places: dict[str, str] = {}
    for number, tensors in enumerate(files, 1):
        file = f"model-{number:05}-of-{len(files):05}.safetensors"
        headers.write(folder / file, tensors, numbers)
        places |= dict.fromkeys(tensors, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    config = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "dtype": "bfloat16",
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": sum("q_proj" in name for name in wanted),
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": VOCABULARY,
        "tie_word_embeddings": False,
    }
    (folder / "config.json").write_text(json.dumps(config))
    for path in find_model(models.EMBEDDED).path.glob("tokenizer*"):
        (folder / path.name).write_bytes(path.read_bytes())


@contextmanager
def limited(gigabytes: float) -> Iterator[Path | None]:
    """A control group inside of our own, for the kernel's version 2 or 1; None where none can be made."""
    group = None
    with suppress(OSError, StopIteration):
        lines = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
        controllers, path = next((name, path) for _, name, path in lines if name in ("memory", ""))
        group = Path("/sys/fs/cgroup") / controllers / path.lstrip("/") / f"streaming-{os.getpid()}"
        group.mkdir()
        try:
            limit = "memory.limit_in_bytes" if controllers else "memory.max"
            (group / limit).write_text(str(int(gigabytes * 1e9)))
        except OSError:
            group.rmdir()
            group = None
    try:
        yield group
    finally:
        if group:
            group.rmdir()


class Watch(threading.Thread):
    """The greatest memory of a process and all its descendants, in bytes."""

    def __init__(self, process: psutil.Process) -> None:
        super().__init__(daemon=True)
        self.process, self.peak, self.resident, self.most = process, 0, 0, 0

    def run(self) -> None:
        while self.process.is_running() and self.process.status() != psutil.STATUS_ZOMBIE:
            shared = resident = count = 0
            with suppress(psutil.Error):
                for one in (self.process, *self.process.children(recursive=True)):
                    with suppress(psutil.Error, OSError):  # it has just ended
                        rows = Path(f"/proc/{one.pid}/smaps_rollup").read_text().splitlines()[1:]
                        known = {row.split()[0]: int(row.split()[1]) * 1024 for row in rows}
                        shared, resident, count = shared + known["Pss:"], resident + known["Pss_Anon:"], count + 1
            self.peak, self.resident = max(self.peak, shared), max(self.resident, resident)
            self.most = max(self.most, count)
            time.sleep(0.1)


def quantized(recipe: str, model: Path, out: Path, group: Path | None) -> dict[str, Any]:
    command = [sys.executable, "-m", "quantpress", "quantize", recipe, "--model", str(model), "--out", str(out)]
    enter = [(group / "cgroup.procs").write_text] if group else []
    started = time.perf_counter()
    process = subprocess.Popen(
        [*command, "--json"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **QUIET, "QUANTPRESS_TARGET": "any"},
        preexec_fn=lambda: [write("0") for write in enter] and None,
    )
    watch = Watch(psutil.Process(process.pid))
    watch.start()
    said, _ = process.communicate()
    took = time.perf_counter() - started
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with exit code {process.returncode}")
    known = json.loads(said)
    kept = {key: known[key] for key in ("path", "note", "threads", "bytes")}
    return {"recipe": recipe, "seconds": round(took, 1), "peak_gb": round(watch.peak / 1e9, 2)} | {
        "resident_gb": round(watch.resident / 1e9, 2),
        **kept,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("recipes", nargs="*", default=["fp8-dynamic"])
    parser.add_argument("--gigabytes", type=float, default=14)
    parser.add_argument("--limit", type=float, default=6, help="GB")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work, limited(args.limit) as group:
        model = Path(work) / "random"
        model.mkdir()
        make(model, args.gigabytes)
        largest = max(path.stat().st_size for path in headers.weight_files(model))
        about = {"model_gb": round(sum(t.nbytes for t in headers.read_folder(model).values()) / 1e9, 2)}
        about |= {"largest_file_gb": round(largest / 1e9, 2), "limit_gb": args.limit if group else 0}
        for recipe in args.recipes:
            with tempfile.TemporaryDirectory(dir=work) as out:
                print(json.dumps(about | quantized(recipe, model, Path(out), group)), flush=True)


if __name__ == "__main__":
    main()
