"""Runs in vLLM's environment: what vLLM itself says of checkpoints. Arguments: a folder of checkpoints, then names.

Names after `--load` are loaded on this CPU and asked for four tokens. Prints one JSON object on its last line.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ |= {
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, sorted(os.sched_getaffinity(0)))),
}


def schemes(config: dict[str, Any]) -> dict[str, list[str]]:
    """For each compute capability the scheme classes that vLLM picks, or why it picks none.

    A scheme looks for its kernel when it is made; those of a GPU are not in a build for CPUs, so none is made here.
    """
    from vllm.model_executor.layers.quantization.compressed_tensors import schemes as classes
    from vllm.model_executor.layers.quantization.compressed_tensors.compressed_tensors import CompressedTensorsConfig
    from vllm.platforms import current_platform
    from vllm.platforms.interface import DeviceCapability

    for name in classes.__all__:
        getattr(classes, name).__init__ = lambda self, *args, **kwargs: None
    found = {}
    for capability in (75, 80, 89, 90, 100):
        has = DeviceCapability(major=capability // 10, minor=capability % 10)
        type(current_platform).get_device_capability = classmethod(lambda cls, device_id=0, has=has: has)
        parsed = CompressedTensorsConfig.from_config(json.loads(json.dumps(config)))
        found[f"sm_{capability}"] = [_scheme(parsed, part) for part in parsed.target_scheme_map.values()]
    type(current_platform).get_device_capability = classmethod(lambda cls, device_id=0: None)
    return found


def _scheme(parsed: Any, part: dict[str, Any]) -> str:
    try:
        scheme = parsed._get_scheme_from_parts(
            part["weights"], part["input_activations"], None, format=part.get("format"), layer_name="x"
        )
        parsed._check_scheme_supported(scheme.get_min_capability())
    except Exception as error:
        return f"no: {type(error).__name__}: {str(error)[:200]}"
    return type(scheme).__name__


def answer(checkpoint: Path) -> list[int]:
    """Four tokens from the checkpoint, served on this CPU."""
    from vllm import LLM, SamplingParams

    llm = LLM(model=str(checkpoint), enforce_eager=True, max_model_len=64, skip_tokenizer_init=True)
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
    picked = {}
    for name in names[:split]:
        config = json.loads((folder / name / "config.json").read_text())["quantization_config"]
        picked[name] = schemes(config)
    return {"schemes": picked, "answers": answers}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), sys.argv[2:])))
