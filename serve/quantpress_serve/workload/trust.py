"""Which of vLLM's arguments a workload or an engine may set by itself, and what else it needs for the others.

Both are files that other people write. Some of vLLM's arguments load Python code (plugins, middleware, classes named by
their module), read or write files, open ports or hold a key. So such a file sets by itself only what is listed here:
arguments that change how fast vLLM computes, whose values are flags, numbers and words of a list.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from quantpress.errors import InputError, listed, shown

# Of vLLM 0.32.0 (requirements/vllm-*.lock). Left out on purpose: what takes a module's or a class's name, a path, an
# address or a mapping of settings (compilation-config and speculative-config name code and models), what other requests
# or other models are taken for, and what is printed or logged.
PERFORMANCE = frozenset(
    {
        # what computes
        *("attention-backend", "dtype", "gdn-prefill-backend", "kda-decode-backend", "kda-prefill-backend"),
        *("linear-backend", "mamba-backend", "moe-backend", "sparse-indexer-topk-backend"),
        *("disable-cascade-attn", "enable-flashinfer-autotune", "optimization-level", "performance-mode"),
        *("cudagraph-capture-sizes", "max-cudagraph-capture-size", "sleep-mode-offload-cudagraph"),
        # what is computed together
        *("async-scheduling", "enable-chunked-prefill", "long-prefill-token-threshold"),
        *("long-prefill-token-threshold-adaptive", "max-num-active-seqs", "max-num-scheduled-tokens"),
        *("prefill-schedule-interval", "scheduler-reserve-full-isl", "scheduling-policy", "stream-interval"),
        *("enable-dbo", "dbo-decode-token-threshold", "dbo-prefill-token-threshold", "ubatch-size"),
        *("enable-batch-sharded-sampling", "max-num-queued-reqs", "max-num-queued-tokens"),
        # where the KV cache and the weights lie
        *("block-size", "disable-hybrid-kv-cache-manager", "disable-sliding-window", "kv-cache-memory-bytes"),
        *("kv-offloading-backend", "kv-offloading-size", "kv-sharing-fast-prefill"),
        *("mamba-block-size", "mamba-cache-dtype", "mamba-cache-mode", "mamba-ssm-cache-dtype"),
        *("mamba-ssu-algorithm", "num-gpu-blocks-override", "prefix-caching-hash-algo", "watermark"),
        *("cpu-offload-gb", "offload-backend", "offload-group-size", "offload-num-in-group", "offload-prefetch-step"),
        *("enable-cumem-allocator", "device-memory-utilization"),
        # how weights are loaded
        *("max-parallel-loading-workers", "safetensors-load-strategy", "safetensors-prefetch-block-size"),
        *("safetensors-prefetch-num-threads", "use-tqdm-on-load"),
        # several devices, and several processes on one machine
        *("all2all-backend", "api-server-count", "data-parallel-size", "data-parallel-size-local"),
        *("dcp-comm-backend", "dcp-kv-cache-interleave-size", "dcp-q-replicate", "decode-context-parallel-size"),
        *("cp-kv-cache-interleave-size", "prefill-context-parallel-size", "disable-custom-all-reduce"),
        *("disable-nccl-for-dp-synchronization", "enable-eplb", "enable-expert-parallel", "enable-ep-weight-filter"),
        *("expert-placement-strategy", "numa-bind", "numa-bind-cpus", "numa-bind-nodes", "renderer-num-workers"),
        # models of images and sounds
        *("language-model-only", "mm-encoder-attn-backend", "mm-encoder-attn-dtype", "mm-encoder-tp-mode"),
        *("mm-processor-cache-gb", "mm-processor-cache-type", "mm-shm-cache-max-object-size-mb", "skip-mm-profiling"),
        *("disable-chunked-mm-input",),
        # what is counted beside the work
        *("disable-log-stats", "disable-uvicorn-access-log", "max-logprobs"),
    }
)

# Arguments whose value is a secret, and where vLLM and quantpress look for it instead.
SECRETS = {
    "hf-token": "export HF_TOKEN=...; vLLM reads it",
    "api-key": "our own servers ask for no key; `quantpress serve` takes it from VLLM_API_KEY",
}
_SECRET_NAME = re.compile(r"(^|-)(token|key|password|passwd|secret|credentials?)$")

# No path, no module's name, no mapping, no option of its own: a flag, a number, a word.
_WORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_+-]*")


def canonical(given: str) -> str:
    """The argument's name as vLLM writes it: without dashes before it, with dashes in it."""
    return given.replace("_", "-").lstrip("-")


def require_trusted(extra: Mapping[str, Any], trusted: Collection[str]) -> None:
    """Raises InputError for an extra argument that no file may set by itself and that is not `trusted`.

    `trusted` are the names that the command line gave with --trust-workload.
    """
    names = {canonical(name) for name in trusted}
    if unused := sorted(names - {_positive(given) for given in extra} - {canonical(given) for given in extra}):
        raise InputError(
            f"--trust-workload names {listed(unused)}, which neither workload nor engine sets",
            hint="leave it out; it names arguments of engine.extra_args, one by one: --trust-workload NAME,NAME",
        )
    for given, value in extra.items():
        name = _positive(given)
        if _SECRET_NAME.search(name):
            raise InputError(
                f"engine.extra_args.{given} is a secret, and would stand in results, logs and the list of processes",
                hint=SECRETS.get(name, "leave it out"),
            )
        if not {name, canonical(given)} & names:
            _require_harmless(given, name, value)
        if isinstance(value, list) and any(str(word).startswith("-") for word in value):
            raise InputError(
                f"engine.extra_args.{given} is {shown(value)}: an item with a dash before it would be an argument",
                hint="correct it",
            )


def _positive(given: str) -> str:
    name = canonical(given)
    return name if name in PERFORMANCE else name.removeprefix("no-")


def _require_harmless(given: str, name: str, value: Any) -> None:
    trust = f"if you know what it does: --trust-workload {name}"
    if name not in PERFORMANCE:
        raise InputError(
            f"engine.extra_args.{given}: no workload or engine sets this argument of vLLM's by itself; what is not "
            "about speed may run code, read files or open ports",
            hint=f"read the file, and {trust}",
        )
    for word in value if isinstance(value, list) else [value]:
        if not isinstance(word, bool | int | float) and not (isinstance(word, str) and _WORD.fullmatch(word)):
            raise InputError(
                f"engine.extra_args.{given} is {shown(word)}: arguments get numbers and plain words",
                hint=f"correct it, or {trust}",
            )
