"""Before hours are spent on scoring: does the model still predict anything like what the unquantized one predicts?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from quantpress.errors import StageError

FILE = "next_tokens.npy"
PROMPTS = (
    "The capital of France is",
    "Water boils at a temperature of",
    "def add(a, b):\n    return",
    "Once upon a time there was a",
)
# Mean KL divergence of the next token's distribution, in nats. Checkpoints that answer sensibly stay below 0.5; a
# uniform guess over 50 000 tokens is at about 8.
BROKEN = 3.0


def check(lm: Any, output: Path, reference: Path | None) -> None:
    """Saves the log-probabilities of the next token after each prompt, shape (prompts, vocabulary).

    Raises StageError if they are not finite, or far from those in `reference`.
    """
    import numpy
    import torch

    rows = []
    for prompt in PROMPTS:
        ids = torch.tensor([lm.tok_encode(prompt)], device=lm.device)
        with torch.inference_mode():
            rows.append(torch.log_softmax(lm.model(ids).logits[0, -1].float(), dim=-1).cpu())
    own = torch.stack(rows)
    if not torch.isfinite(own).all():
        raise StageError(
            "the model's logits are not finite: it is broken", hint="quantize again with another recipe or other data"
        )
    numpy.save(output, own.numpy(), allow_pickle=False)
    if reference is None or not reference.is_file():
        return
    base = torch.from_numpy(numpy.load(reference, allow_pickle=False))
    divergence = float((base.exp() * (base - own)).sum(-1).mean())
    if divergence > BROKEN:
        raise StageError(
            f"the checkpoint is broken: after {len(PROMPTS)} prompts its next-token distributions are {divergence:.1f} "
            f"nats (KL) from the model's, where {BROKEN:g} is already nonsense; it was not scored",
            hint="quantize again with another recipe or other data; ignore the layers with outliers",
        )
