"""Why a vLLM server would not start or went down, read off its log."""

from __future__ import annotations

import re
from pathlib import Path

from quantpress.runtime import process

# What vLLM 0.32 prints when it will not serve, in small letters, and what that means. First match wins. Those marked *
# were seen here (tests/unit/recorded); the others are in its source, at the places named.
KNOWN = (
    (
        "no module named 'torchvision'",
        "vLLM's class for this model needs torchvision: install the build that belongs to vLLM's torch",
    ),
    ("address already in use", "the port was taken in the meantime; run again"),  # *
    ("must be divisible by tensor parallel size", "tensor_parallel_size does not divide the attention heads"),  # *
    ("is not divisible by", "a layer's shape does not fit the kernel or the tensor-parallel size"),  # distributed/utils
    ("kv cache is needed, which is larger", "the KV cache cannot hold one longest request; lower max_model_len"),
    ("no available memory for the cache blocks", "no memory is left for the KV cache; lower max_model_len"),
    ("on kv cache allocation is less than requested", "too little memory for VLLM_CPU_KVCACHE_SPACE; lower it"),  # *
    ("is less than desired cpu memory utilization", "other processes hold the memory; lower gpu_memory_utilization"),
    (
        "is less than desired gpu memory utilization",
        "other processes hold the GPU's memory; end them, or lower gpu_memory_utilization",
    ),  # v1/worker/utils
    ("not enough gpu memory", "the model does not fit this GPU; raise tensor_parallel_size or use a smaller scheme"),
    ("cuda out of memory", "the model does not fit this GPU; raise tensor_parallel_size or use a smaller scheme"),
    ("cannot allocate memory", "the machine has too little memory; lower VLLM_CPU_KVCACHE_SPACE"),
    (
        "is greater than the derived max_model_len",
        "the model was not made for so long a context; lower max_model_len",
    ),  # *
    ("no compressed-tensors compatible scheme", "this vLLM knows no scheme like the checkpoint's"),
    ("scheme is not supported for the current gpu", "the GPU is too old for the scheme; see `quantpress plan`"),
    ("failed to find a kernel", "this machine's vLLM has no kernel for the scheme; see `quantpress plan`"),
    (
        "'_opnamespace' '_c' object has no attribute",
        "vLLM's library for this CPU lacks an operator that the scheme needs; see `quantpress plan`",
    ),  # *
    ("expected at most 0 argument", "this build of vLLM has no kernel for the scheme; see `quantpress plan`"),  # *
    (
        "there is no module or parameter named",
        "vLLM does not know a tensor of this checkpoint; compare vLLM's and"
        " compressed-tensors' versions, and quantization_config in its config.json",
    ),  # *
    ("keyerror:", "vLLM does not know a tensor of this checkpoint; compare vLLM's and compressed-tensors' versions"),
    ("unrecognized arguments", "this vLLM does not have an engine setting of the workload"),
    ("not supported", "this machine's vLLM cannot serve the scheme or a setting; see `quantpress plan`"),
)
_PASSED_ON = ("Engine core initialization failed", "WorkerProc initialization failed", "ValidationError")
_PREFIX = re.compile(r"^\(.*?\] ")
_HARMLESS = re.compile(r"^(\(.*?\) )?(INFO|WARNING|DEBUG) |Warning: ")


def explain(log: Path) -> str:
    """The cause of a failure as the log tells it: what it means if it is a known one, and vLLM's own words."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    lines = [_PREFIX.sub("", line.strip()) for line in text.splitlines() if not _HARMLESS.match(line)]
    for sign, meaning in KNOWN:
        for line in lines:
            if sign in line.lower():
                return f"{meaning} ({line.strip()[:400]})"
    errors = process.errors_in(log) if log.exists() else ["it printed nothing"]
    own = [error for error in errors if not any(sign in error for sign in _PASSED_ON)]
    return (own or errors)[-1]
