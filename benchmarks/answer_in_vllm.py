"""Runs in vLLM's environment: log-likelihoods of given tokens by each of several checkpoints, without a server.

    python answer_in_vllm.py '{"windows": [[1, 2, 3]], "folders": ["a", "b"], "dtype": "auto", "eager": true}'

Prints one line of JSON for each folder: {"folder", "likelihoods"} or {"folder", "error"}.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from typing import Any

os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}


def likelihoods(folder: str, windows: list[list[int]], dtype: str, eager: bool) -> list[list[float]]:
    """Of each token after the first of its window, natural logarithm."""
    from vllm import LLM, SamplingParams

    longest = max(map(len, windows)) + 8
    engine = LLM(
        folder,
        dtype=dtype,
        max_model_len=longest,
        max_num_seqs=2,
        enforce_eager=eager,
        enable_prefix_caching=False,
        limit_mm_per_prompt={"image": 0, "video": 0, "audio": 0},
    )
    try:
        asked: Any = [{"prompt_token_ids": window} for window in windows]
        answers = engine.generate(asked, SamplingParams(max_tokens=1, prompt_logprobs=0), use_tqdm=False)
        return [
            [row[token].logprob for row, token in zip(answer.prompt_logprobs[1:], window[1:], strict=True)]
            for answer, window in zip(answers, windows, strict=True)
        ]
    finally:
        engine.llm_engine.engine_core.shutdown()
        del engine
        gc.collect()


def _reason(error: BaseException) -> str:
    """The first cause, on one line; for a class that cannot be imported, what it lacks."""
    import importlib.util

    if "failed to be inspected" in str(error) and importlib.util.find_spec("torchvision") is None:
        return "vLLM's class needs torchvision, which has no build for this torch on CPUs"
    while error.__cause__:
        error = error.__cause__
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def main(asked: dict[str, Any]) -> None:
    for folder in asked["folders"]:
        try:
            how = (asked["windows"], asked["dtype"], asked["eager"])
            found: dict[str, Any] = {"likelihoods": likelihoods(folder, *how)}
        except Exception as error:
            found = {"error": _reason(error)}
        print("\n" + json.dumps({"folder": folder, **found}), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
