"""Runs in vLLM's environment: what vLLM itself says of checkpoints. Arguments: a folder of checkpoints, then names.

Names after `--load` are loaded on this machine and asked for four tokens. Prints one JSON object on its last line.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from quantpress_serve.probes.schemes_probe import picked

os.environ |= {
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, sorted(os.sched_getaffinity(0)))),
}


def answer(checkpoint: Path) -> list[int]:
    """Four tokens from the checkpoint, served on this machine."""
    import torch
    from vllm import LLM, SamplingParams

    # One after the other in this process: a GPU must not be filled by the first.
    share = {"gpu_memory_utilization": 0.1} if torch.cuda.is_available() else {}
    llm = LLM(model=str(checkpoint), enforce_eager=True, max_model_len=64, skip_tokenizer_init=True, **share)
    greedy = SamplingParams(max_tokens=4, temperature=0, detokenize=False)
    return list(llm.generate([{"prompt_token_ids": [5, 6, 7, 8]}], greedy)[0].outputs[0].token_ids)


def main(folder: Path, names: list[str]) -> dict[str, Any]:
    split = names.index("--load")
    answers: dict[str, Any] = {}
    for name in names[split + 1 :]:
        try:
            answers[name] = answer(folder / name)
        except Exception as error:
            answers[name] = f"{type(error).__name__}: {str(error)[:300]}"
    by_target = {}
    for name in names[:split]:
        config = json.loads((folder / name / "config.json").read_text())["quantization_config"]
        by_target[name] = picked(config)
    return {"schemes": by_target, "answers": answers}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), sys.argv[2:])))
