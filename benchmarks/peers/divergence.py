"""How far a checkpoint's next tokens are from the model's: divergence.py MODEL CHECKPOINT TOKENS OUTPUT

Runs in the environment of the library that made the checkpoint, which loads it. Writes, by sequence and position of the
given token ids, the KL divergence of the distribution of the next token in nats (`kl`), and whether another token is
the likeliest (`flips`).
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM


def loaded(folder: str) -> Any:
    """The model in the folder. GPTQModel loads its own format; transformers would need one more library for it."""
    config = json.loads((Path(folder) / "config.json").read_text())
    if config.get("quantization_config", {}).get("quant_method") == "gptq":
        from gptqmodel import GPTQModel

        return GPTQModel.load(folder).model
    return AutoModelForCausalLM.from_pretrained(folder, dtype="auto")


def next_tokens(folder: str, sequences: list[list[int]]) -> Iterator[torch.Tensor]:
    """Of each sequence the log-probabilities of the next token, shape (tokens, vocabulary)."""
    model = loaded(folder).eval()
    for sequence in sequences:
        yield model(input_ids=torch.tensor([sequence])).logits[0].float().log_softmax(-1)


torch.set_grad_enabled(False)
model, checkpoint, tokens, output = sys.argv[1:]
sequences = json.loads(Path(tokens).read_text())
kl, flips = [], []
for theirs, ours in zip(next_tokens(model, sequences), next_tokens(checkpoint, sequences), strict=True):
    kl.append((theirs.exp() * (theirs - ours)).sum(-1).tolist())
    flips.append((theirs.argmax(-1) != ours.argmax(-1)).tolist())
Path(output).write_text(json.dumps({"kl": kl, "flips": flips}))
