"""What a server tells of itself: in its log while it starts, and at /metrics."""

from __future__ import annotations

import re
from typing import Any

# vLLM 0.32: gpu_model_runner (not on CPUs), default_loader, kv_cache_utils, core. Each worker prints its own.
_FACTS = {
    "weights_gib": re.compile(r"Model loading took ([\d.]+) GiB memory"),
    "load_s": re.compile(r"Loading weights took ([\d.]+) seconds"),
    "kv_cache_tokens": re.compile(r"KV cache size: ([\d,]+) tokens"),
    "kv_cache_gib": re.compile(r"(?:Available KV cache memory: |Explicitly set \(|Auto set \()([\d.]+)"),
    "engine_init_s": re.compile(r"init engine \(.*\) took ([\d.]+) s"),
}
_LABEL = re.compile(r'(\w+)="([^"]*)"')


def facts(text: str) -> dict[str, float | int | None]:
    """Weight memory (GiB a worker), load and start times (s), KV cache (GiB a worker, tokens); None where not told."""
    return {name: _greatest(name, pattern.findall(text)) for name, pattern in _FACTS.items()}


def _greatest(name: str, found: list[str]) -> float | int | None:
    numbers = [float(number.replace(",", "")) for number in found]
    if not numbers:
        return None
    return int(max(numbers)) if name.endswith("_tokens") else max(numbers)


def metrics(text: str) -> dict[str, Any]:
    """From /metrics: KV cache capacity in tokens, whether prefixes are cached, and when the server was started."""
    lines = text.splitlines()
    info = next((dict(_LABEL.findall(line)) for line in lines if line.startswith("vllm:cache_config_info{")), {})
    started = next((line.split()[-1] for line in lines if line.startswith("process_start_time_seconds ")), None)
    tokens = info.get("kv_cache_size_tokens", "")
    return {
        "kv_cache_tokens": int(tokens) if tokens.isdecimal() else None,
        "prefix_caching": info["enable_prefix_caching"] == "True" if "enable_prefix_caching" in info else None,
        "started": float(started) if started else None,
    }
