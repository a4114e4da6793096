"""What an x86 CPU can do, as far as it decides which of vLLM's kernels run, and whether they compute exactly.

Features have the names of /proc/cpuinfo.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

# Kinds of CPU that a plan can be made for on another machine: the least that each of them has.
KINDS = {
    # Laptops, desktops and servers up to AMD's Zen 3, and Intel's without AVX-512.
    "cpu-avx2": frozenset({"avx2", "fma"}),
    # Intel from Cascade Lake on, AMD from Zen 4 on. (Skylake's AVX-512 lacks VNNI: ask on that machine itself.)
    "cpu-avx512": frozenset({"avx2", "fma", "avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_vnni"}),
    # Intel from Sapphire Rapids on.
    "cpu-amx": frozenset(
        {"avx2", "fma", "avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_vnni", "avx512_bf16"}
        | {"avx512_fp16", "amx_tile", "amx_int8", "amx_bf16"}
    ),
}
THIS = "cpu"
# Any of these gives fast products in a type, without which torch and oneDNN compute them by way of float32.
FAST_PRODUCTS = {
    "bfloat16": frozenset({"avx512_bf16", "amx_bf16"}),
    "float16": frozenset({"avx512_fp16", "amx_fp16"}),
}
# What any of these settings forbids the libraries to use: torch and oneDNN obey them, so we count as they do.
_LIMITS = (("ATEN_CPU_CAPABILITY", ("default", "avx2")), ("ONEDNN_MAX_CPU_ISA", ("SSE41", "AVX", "AVX2")))
_BEYOND_AVX2 = ("avx512", "amx", "avx_vnni")


def features(target: str = THIS) -> frozenset[str]:
    """The features of a kind of CPU; of `cpu`, this machine's, as far as the libraries may use them."""
    return KINDS[target] if target in KINDS else _of_this_machine(_is_limited())


@cache
def _of_this_machine(limited: bool) -> frozenset[str]:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("flags"):
            flags = line.partition(":")[2].split()
            return frozenset(flag for flag in flags if not (limited and flag.startswith(_BEYOND_AVX2)))
    return frozenset()


def _is_limited() -> bool:
    return any(os.environ.get(name) in values for name, values in _LIMITS)


def described(target: str = THIS) -> str:
    """The instruction sets that matter, in words: "AVX-512, VNNI, bf16"."""
    known = features(target)
    sets = {
        "AVX2": {"avx2"},
        "AVX-512": {"avx512f"},
        "VNNI": {"avx512_vnni", "avx_vnni"},
        "bf16": FAST_PRODUCTS["bfloat16"],
        "AMX": {"amx_tile"},
    }
    found = [name for name, flags in sets.items() if flags & known]
    if "AVX-512" in found:
        found.remove("AVX2")
    return ", ".join(found) or "none beyond SSE"
