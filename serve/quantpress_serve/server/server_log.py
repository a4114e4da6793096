"""What a server tells of itself: in its log while it starts, and at /metrics."""

from __future__ import annotations

import re

from quantpress.runtime.records import Record

# vLLM 0.32: gpu_model_runner (not on CPUs), default_loader, kv_cache_utils, core. Each worker prints its own.
_WEIGHTS_GIB = re.compile(r"Model loading took ([\d.]+) GiB memory")
_LOAD_S = re.compile(r"Loading weights took ([\d.]+) seconds")
_KV_CACHE_TOKENS = re.compile(r"KV cache size: ([\d,]+) tokens")
_KV_CACHE_GIB = re.compile(r"(?:Available KV cache memory: |Explicitly set \(|Auto set \()([\d.]+)")
_ENGINE_INIT_S = re.compile(r"init engine \(.*\) took ([\d.]+) s")
# A kernel and what it is for: kernels/linear and the schemes of compressed-tensors; attention (platforms/), which CPUs
# do not print; and the experts of a mixture, of which vLLM names the kind of kernel (fused_moe/oracle).
_KERNEL = re.compile(r"\b(?:Using|Selected) (\w+Kernel) for (\S.*?)\s*$", re.MULTILINE)
_ATTENTION = re.compile(r"\bUsing (?:AttentionBackendEnum\.)?([A-Z]\w+)(?: attention)? backend(?= out of|\.)")
_EXPERTS = re.compile(r"\bUsing '?(\w+)'? ((?:\w+ )+MoE) backend\b")
_LABEL = re.compile(r'(\w+)="([^"]*)"')


class InLog(Record):
    """Weight memory and KV cache (GiB of a worker), the KV cache in tokens, load and start times (s), and the kernels
    that were chosen; None where the log does not tell. Names and meaning are those of throughput.ServerFacts."""

    weights_gib: float | None
    load_s: float | None
    kv_cache_tokens: int | None
    kv_cache_gib: float | None
    engine_init_s: float | None
    kernels: dict[str, list[str]] | None


class AtMetrics(Record):
    """KV cache in tokens, whether prefixes are cached, and when the server was started (s since 1970)."""

    kv_cache_tokens: int | None = None
    prefix_caching: bool | None = None
    started: float | None = None


def told_in_log(text: str) -> InLog:
    """What a server's log says; of several workers the greatest number counts."""
    tokens = _greatest(_KV_CACHE_TOKENS, text)
    return InLog(
        weights_gib=_greatest(_WEIGHTS_GIB, text),
        load_s=_greatest(_LOAD_S, text),
        kv_cache_tokens=None if tokens is None else int(tokens),
        kv_cache_gib=_greatest(_KV_CACHE_GIB, text),
        engine_init_s=_greatest(_ENGINE_INIT_S, text),
        kernels=_kernels(text) or None,
    )


def _kernels(text: str) -> dict[str, list[str]]:
    """The kernels by what vLLM says they are for; several where its layers differ."""
    chosen = [(what, name) for name, what in [*_KERNEL.findall(text), *_EXPERTS.findall(text)]]
    chosen += [("attention", name) for name in _ATTENTION.findall(text)]
    return {what: sorted({name for other, name in chosen if other == what}) for what in sorted(dict(chosen))}


def _greatest(pattern: re.Pattern[str], text: str) -> float | None:
    return max((float(number.replace(",", "")) for number in pattern.findall(text)), default=None)


def told_at_metrics(text: str) -> AtMetrics:
    """What a server's answer at /metrics says."""
    lines = text.splitlines()
    info = next((dict(_LABEL.findall(line)) for line in lines if line.startswith("vllm:cache_config_info{")), {})
    started = next((line.split()[-1] for line in lines if line.startswith("process_start_time_seconds ")), None)
    tokens = info.get("kv_cache_size_tokens", "")
    return AtMetrics(
        kv_cache_tokens=int(tokens) if tokens.isdecimal() else None,
        prefix_caching=info["enable_prefix_caching"] == "True" if "enable_prefix_caching" in info else None,
        started=float(started) if started else None,
    )
