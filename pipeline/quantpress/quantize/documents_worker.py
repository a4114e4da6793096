"""Fetches documents of a hub data set into a local file, for a bundle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from quantpress.quantize import calibration_data
from quantpress.recipe.recipe import Source
from quantpress.runtime.worker import worker_main


def fetch(job: dict[str, Any]) -> dict[str, Any]:
    """job: source, seed, tokens (at least so many), model (its tokenizer counts them), trust_remote_code, output."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(job["model"], trust_remote_code=job["trust_remote_code"])
    count = tokens = 0
    with Path(job["output"]).open("w", encoding="utf-8") as stream:
        for document in calibration_data.documents(Source.model_validate(job["source"]), job["seed"]):
            stream.write(json.dumps(document, ensure_ascii=False) + "\n")
            count += 1
            tokens += len(calibration_data.tokens_of(document, tokenizer))
            if tokens >= job["tokens"]:
                break
    return {"documents": count, "tokens": tokens, "note": f"{count} documents"}


if __name__ == "__main__":
    raise SystemExit(worker_main(fetch))
