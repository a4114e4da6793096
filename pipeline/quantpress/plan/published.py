"""What others measured and published of schemes, and what we did: the claims of `recipes suggest`, with sources.

A kind is one of the table of hardware (quantpress.plan.hardware).
"""

from __future__ import annotations

Claim = tuple[str, str]  # what is said, and who says it

MEASURED = "docs/explanation/measurements.md"
CPU = f"{MEASURED}, a 2-core CPU"
RULE = "rule of thumb, not measured here: run both and compare"
PAPER = "published: Kurtic et al., ACL 2025, Llama 3.1 in vLLM, https://arxiv.org/abs/2411.02355"
_MICROSCALING = "published: Egiazarian et al., https://arxiv.org/abs/2509.23202"
_VLLM_FP8 = "published: https://docs.vllm.ai/en/v0.32.0/features/quantization/llm_compressor/fp8/"
_SCHEMES = "published: https://docs.vllm.ai/projects/llm-compressor/en/0.11.0/steps/choosing-scheme/"
_FORMS = "published: https://docs.vllm.ai/projects/llm-compressor/en/0.10.0/guides/compression_schemes/"

# Under load on GPUs, by these sources: the best first. What they do not compare comes after them.
_UNDER_LOAD = (("FP8 dynamic",), ("FP8 static", "FP8 block"), ("W8A8",))
_EXCELS = ("8-bit weights and activations excel under load on high-end GPUs, from mid-size models on", PAPER)
_MID_TIER = ("most cost-efficient under load on mid-tier GPUs; 8 bits excel on high-end ones", PAPER)
UNDER_LOAD = {
    "FP8 dynamic": [_EXCELS, ("up to 1.6 times the throughput of 16 bits", _VLLM_FP8)],
    "FP8 static": [("channel-wise weights with dynamic activations perform best among FP8", _FORMS)],
    "FP8 block": [("FP8_DYNAMIC, not blocks, is recommended for server and batch inference", _FORMS)],
    "W8A8": [_EXCELS, ("for high throughput on older GPUs; FP8 on modern ones", _SCHEMES)],
    "W4A16": [_MID_TIER],
    "W4A16 asymmetric": [_MID_TIER],
    "W4AFP8": [("no published measurement known that puts it before FP8 under load", RULE)],
}

# In accuracy, by these sources: the best first. What they do not compare comes after the first three.
_ACCURATE = (
    ("FP8 dynamic", "FP8 static", "FP8 block"),
    ("W8A8",),
    ("W4A16", "W4A16 asymmetric"),
)
_LOSSLESS = ("8-bit floats for weights and activations are lossless across all model scales", PAPER)
_COMPETITIVE = ("4-bit weights are competitive with 8-bit integers for weights and activations", PAPER)
ACCURACY = {
    "FP8 dynamic": [_LOSSLESS],
    "FP8 static": [_LOSSLESS],
    "FP8 block": [_LOSSLESS],
    "W8A16": [("less is rounded than with 8-bit activations, which lose 1 to 3% at most", RULE)],
    "W8A8": [("8-bit integers for weights and activations lose 1 to 3% when properly tuned", PAPER)],
    "W4A16": [_COMPETITIVE],
    "W4A16 asymmetric": [_COMPETITIVE],
    "NVFP4": [("4-bit floats are no automatic upgrade over 4-bit integers", _MICROSCALING)],
    "NVFP4A16": [("4-bit floats are no automatic upgrade over 4-bit integers", _MICROSCALING)],
    "MXFP4": [("scales that are powers of two severely degrade accuracy", _MICROSCALING)],
}
# What we measured ourselves, of the embedded model: KL in nats by recipe, on 1000 documents.
KL = {
    "rtn-w4a16": 0.261,
    "gptq-w4a16": 0.138,
    "awq-w4a16": 0.115,
    "w8a8-dynamic": 0.032,
    "smoothquant-w8a8-static": 0.023,
    "smoothquant-gptq-w8a8": 0.021,
}


def place_under_load(kind: str) -> int:
    """0 is the best; what no source compares comes last."""
    return _place(kind, _UNDER_LOAD)


def place_in_accuracy(kind: str) -> int:
    """0 is the best; W8A16 shares it, for it rounds less. What no source compares comes after 4-bit weights."""
    if kind == "W8A16":
        return 0
    return len(_ACCURATE) + 1 if kind == "MXFP4" else _place(kind, _ACCURATE)


def _place(kind: str, order: tuple[tuple[str, ...], ...]) -> int:
    return next((place for place, kinds in enumerate(order) if kind in kinds), len(order))


def kl_of(recipe: str) -> list[Claim]:
    """What we measured of a shipped recipe on the embedded model."""
    known = KL.get(recipe)
    return [(f"KL {known} from the unquantized model on 1000 documents", f"{MEASURED}, SmolLM2-135M")] if known else []
