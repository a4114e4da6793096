"""Worker: log-likelihoods of a fixed text by transformers, which an engine must compute too. Heavy."""

from __future__ import annotations

import math
from typing import Any

from quantpress.model.whole_model_worker import placed_model
from quantpress_serve.bench.likelihoods import TEXT
from quantpress_serve.bench.workers import LIKELIHOODS, LikelihoodJob, LikelihoodResult, Likelihoods, Row


def of_model(model: Any, tokenizer: Any, window: int) -> Likelihoods:
    """The text in windows of at most `window` tokens, and each token's log-likelihood (natural) after those before it.

    Each window begins as the tokenizer begins a text (with its BOS, if it has one); its first token has no likelihood.
    """
    import torch

    ids = tokenizer(TEXT.read_text(encoding="utf-8"), add_special_tokens=False)["input_ids"]
    begin = tokenizer("a")["input_ids"][: -len(tokenizer("a", add_special_tokens=False)["input_ids"])]
    step = window - len(begin)
    windows = [begin + ids[start : start + step] for start in range(0, len(ids), step)]
    windows = [tokens for tokens in windows if len(tokens) > len(begin) + 1]
    found: list[Row] = []
    for tokens in windows:
        inputs = torch.tensor([tokens], device=model.device)
        with torch.inference_mode():
            logits = model(inputs).logits[0, :-1].float()
        chosen = torch.log_softmax(logits, -1).gather(-1, inputs[0, 1:, None])[:, 0]
        found.append([value if math.isfinite(value) else None for value in chosen.tolist()])
    return Likelihoods(windows=windows, likelihoods=found)


def work(job: LikelihoodJob) -> LikelihoodResult:
    """Each model's likelihoods, one model in memory at a time."""
    import torch
    from transformers import AutoTokenizer

    dtype = torch.float32 if job.compute_dtype == "float32" else "auto"
    found = {}
    for role, scored in job.models.items():
        trust = scored.trust_remote_code
        model = placed_model(scored.path, trust, job.device, dtype=dtype)
        tokenizer = AutoTokenizer.from_pretrained(scored.path, trust_remote_code=trust)
        found[role] = of_model(model, tokenizer, scored.window)
        del model
    return LikelihoodResult(models=found)


if __name__ == "__main__":
    raise SystemExit(LIKELIHOODS.main(work))
