"""What quantpress itself does around a quantization of a large model: digests, manifest, lock, publishing.

    make bench-bookkeeping        (nothing else may run meanwhile; needs 25 GB of disk)

Makes a model folder of the shapes of an 8B Llama (16 GB, four files, weights of zeros: a digest does not care) and a
checkpoint of the size that W4A16 gives, and runs the parts on them one by one. Prints seconds for each, with the files
in the page cache, where loading the model puts them.
"""

from __future__ import annotations

import argparse
import json
import os
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

LAYERS, HIDDEN, INNER, KEYS, WORDS = 32, 4096, 14336, 1024, 128256


def shapes() -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (WORDS, HIDDEN),
        "lm_head.weight": (WORDS, HIDDEN),
    }
    for number in range(LAYERS):
        layer = f"model.layers.{number}"
        found |= {f"{layer}.self_attn.{name}_proj.weight": (HIDDEN, HIDDEN) for name in "qo"}
        found |= {f"{layer}.self_attn.{name}_proj.weight": (KEYS, HIDDEN) for name in "kv"}
        found |= {f"{layer}.mlp.{name}_proj.weight": (INNER, HIDDEN) for name in ("gate", "up")}
        found |= {f"{layer}.mlp.down_proj.weight": (HIDDEN, INNER)}
    return found


def write(folder: Path, shapes: dict[str, tuple[int, ...]], bytes_per_weight: float, parts: int) -> None:
    folder.mkdir(parents=True)
    names, index = sorted(shapes), {}
    for part in range(parts):
        header, offset = {}, 0
        for name in names[part::parts]:
            size = int(shapes[name][0] * shapes[name][1] * bytes_per_weight)
            header[name] = {"dtype": "U8", "shape": list(shapes[name]), "data_offsets": [offset, offset + size]}
            offset += size
            index[name] = f"model-{part + 1}.safetensors"
        text = json.dumps(header).encode()
        with (folder / f"model-{part + 1}.safetensors").open("wb") as stream:
            stream.write(struct.pack("<Q", len(text)) + text)
            block = bytes(1 << 24)
            while offset > 0:
                offset -= stream.write(block[:offset])
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    (folder / "config.json").write_text('{"model_type": "llama", "tie_word_embeddings": false}')
    (folder / "tokenizer.json").write_text("{}")


def timed(label: str, work: Callable[[], Any]) -> Any:
    started = time.perf_counter()
    result = work()
    print(json.dumps({"part": label, "seconds": round(time.perf_counter() - started, 2)}), flush=True)
    return result


def main() -> None:
    argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0]).parse_args()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        os.environ["QUANTPRESS_CACHE"] = str(work / "cache")
        write(work / "large", shapes(), 2, 4)
        write(work / "checkpoint", shapes(), 0.56, 2)
        from quantpress.artifact import manifest
        from quantpress.model.source import find_model
        from quantpress.plan.resolve import plan_of
        from quantpress.quantize import stage as quantize
        from quantpress.recipe.loading import load_recipe
        from quantpress.runtime import environment

        found = timed("look at the model", lambda: find_model(str(work / "large")))
        plan = timed("plan", lambda: quantize.prepared(plan_of(load_recipe("w8a8-dynamic"), found), found, "stored"))
        # The digests are read by the worker while it starts: here while a process imports what the worker imports.
        imports = [sys.executable, "-c", "import torch, transformers, llmcompressor"]
        for _ in range(3):
            timed("what a worker imports", lambda: subprocess.run(imports, check=True, capture_output=True))
            (work / "cache" / "sha256.json").unlink(missing_ok=True)
            timed("the same beside the digests of 16 GB", lambda: beside(imports, found.digests))
        timed("digests of 16 GB, remembered", found.digests)
        timed("inputs and their digest", lambda: quantize.inputs_of(plan, found).digest)
        timed("machine", environment.machine)
        timed("digests of the checkpoint", lambda: manifest.file_table(work / "checkpoint"))


def beside(command: list[str], work: Callable[[], Any]) -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(work)
        subprocess.run(command, check=True, capture_output=True)


if __name__ == "__main__":
    main()
