"""Before hours are spent on scoring: does the model still predict anything like what the unquantized one predicts?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from quantpress.errors import StageError
from quantpress.runtime import atomic

LOGITS = "next_tokens.npy"
LIKELIHOODS = "likelihoods.json"
PROMPTS = (
    "The capital of France is",
    "Water boils at a temperature of",
    "def add(a, b):\n    return",
    "Once upon a time there was a",
)
CONTINUATIONS = (" Paris", " 100 degrees", " a + b", " little girl who lived in a village")
# Mean KL divergence of the next token's distribution, or log-likelihood lost per continuation's character, in nats.
# Checkpoints that answer sensibly stay below 0.5 (0.1); a uniform guess over 50 000 tokens is at about 8 (2).
BROKEN = 3.0
BROKEN_PER_CHARACTER = 1.0
_HINT = "quantize again with another recipe or other data; ignore the layers with outliers"


def require_sane(lm: Any, output: Path, reference: Path | None) -> None:
    """For transformers: saves the log-probabilities of the next token after each prompt, shape (prompts, vocabulary),
    in the folder `output`.

    Raises StageError if they are not finite, or far from those in the folder `reference`.
    """
    import numpy
    import torch

    rows = []
    for prompt in PROMPTS:
        ids = torch.tensor([lm.tok_encode(prompt)], device=lm.device)
        with torch.inference_mode():
            rows.append(torch.log_softmax(lm.model(ids).logits[0, -1].float(), dim=-1).cpu())
    own = torch.stack(rows)
    _require_finite(bool(torch.isfinite(own).all()))
    numpy.save(output / LOGITS, own.numpy(), allow_pickle=False)
    if reference is None or not (reference / LOGITS).is_file():
        return
    base = torch.from_numpy(numpy.load(reference / LOGITS, allow_pickle=False))
    divergence = float((base.exp() * (base - own)).sum(-1).mean())
    if divergence > BROKEN:
        raise StageError(
            f"the checkpoint is broken: after {len(PROMPTS)} prompts its next-token distributions are {divergence:.1f} "
            f"nats (KL) from the model's, where {BROKEN:g} is already nonsense; it was not scored",
            hint=_HINT,
        )


def require_sane_server(lm: Any, output: Path, reference: Path | None) -> None:
    """For a server, which does not give whole distributions: the log-likelihoods of given continuations.

    Raises StageError if they are not finite, or far below those in the folder `reference`.
    """
    import math

    from lm_eval.api.instance import Instance

    asked = [
        Instance("loglikelihood", {}, pair, number)
        for number, pair in enumerate(zip(PROMPTS, CONTINUATIONS, strict=True))
    ]
    own = [float(likelihood) for likelihood, _ in lm.loglikelihood(asked, disable_tqdm=True)]
    _require_finite(all(map(math.isfinite, own)))
    atomic.write_json(output / LIKELIHOODS, own)
    if reference is None or not (reference / LIKELIHOODS).is_file():
        return
    lost = sum(atomic.read_json(reference / LIKELIHOODS)) - sum(own)
    per_character = lost / sum(map(len, CONTINUATIONS))
    if per_character > BROKEN_PER_CHARACTER:
        raise StageError(
            f"the checkpoint is broken: {len(PROMPTS)} plain continuations are {per_character:.1f} nats per character "
            f"less likely than to the model, where {BROKEN_PER_CHARACTER:g} is already nonsense; it was not scored",
            hint=_HINT,
        )


def _require_finite(finite: bool) -> None:
    if not finite:
        raise StageError("the model's logits are not finite: it is broken", hint=_HINT)
