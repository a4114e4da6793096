"""Turns a GGUF file into an ordinary bf16 model folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from quantpress.model.source import GGUF, GgufJob, GgufResult


def convert(job: GgufJob) -> GgufResult:
    """Writes an ordinary model folder."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    gguf, folder = Path(job.gguf), job.folder
    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    model = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.bfloat16)
    # save_pretrained refuses as long as the model says that it is a GGUF model; its weights are plain bf16 by now.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    tokenizer = AutoTokenizer.from_pretrained(**source)
    _align_special_tokens(tokenizer, model.config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    parameters = model.num_parameters()
    return GgufResult(parameters=parameters, note=f"{parameters / 1e6:.0f} M parameters")


def _align_special_tokens(tokenizer: Any, config: Any) -> None:
    """Makes the tokenizer agree with the config.

    transformers 5.17 gives a tokenizer read from this GGUF <|im_start|> as end of sequence; the file's own metadata,
    which the config repeats, says <|im_end|>. A generation that stops at the wrong token never ends.
    """
    for name in ("bos_token", "eos_token", "pad_token"):
        number = getattr(config, f"{name}_id", None)
        if isinstance(number, int):
            setattr(tokenizer, name, tokenizer.convert_ids_to_tokens(number))
    tokenizer.model_max_length = config.max_position_embeddings


if __name__ == "__main__":
    raise SystemExit(GGUF.main(convert))
