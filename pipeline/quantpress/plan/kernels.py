"""Which kernels a plan is to be served by, held against those that vLLM says it chose."""

from __future__ import annotations

from collections.abc import Mapping

from quantpress.artifact.throughput import KernelUse
from quantpress.model.layers import EXPERT
from quantpress.plan import hardware
from quantpress.plan.resolve import Plan
from quantpress.plan.servable import kinds_of

# By kind of layer the names of vLLM's kernels, any of which is as planned; none where its log does not name one.
Kernels = dict[str, list[str]]

# What vLLM's log says a kernel is for, by kind of layer: "Using MarlinLinearKernel for CompressedTensorsWNA16".
ATTENTION = "attention"
_PACKED, _FP8, _NVFP4 = ("CompressedTensorsWNA16",), ("CompressedTensorsW8A8Fp8",), ("NVFP4 GEMM",)
SAID_FOR: dict[str, tuple[str, ...]] = {
    "W4A16": _PACKED,
    "W4A16 asymmetric": _PACKED,
    "W8A16": _PACKED,
    "WnA16": _PACKED,
    "W8A8": ("CompressedTensorsW8A8Int8",),
    "W4A8": ("CompressedTensorsWNA8Int",),
    "WnAm": ("CompressedTensorsWNA8Int", "CompressedTensorsWNA4Int"),
    "W4AFP8": ("CompressedTensorsW4A8Fp8",),
    "FP8 dynamic": _FP8,
    "FP8 static": _FP8,
    "FP8 block": _FP8,
    "NVFP4": _NVFP4,
    "NVFP4A16": _NVFP4,
    "MXFP4": ("MXFP4 GEMM",),
    "MXFP8": ("MXFP8 GEMM",),
    hardware.KV_CACHE: (ATTENTION,),
}


def planned(plan: Plan, target: str) -> Kernels:
    """By kind of layer the kernels that the table has for it on `target`.

    vLLM runs experts and latent attention with kernels of their own, which the table does not have: a kind of experts
    alone has none, nor the KV cache of latent attention.
    """
    kinds = kinds_of(plan)
    linear = {hardware.kind_of(scheme) for name, scheme in plan.schemes.items() if not EXPERT.match(name)}
    apart = {hardware.kind_of(scheme) for scheme in plan.schemes.values()} - linear
    if plan.latent_attention:
        apart.add(hardware.KV_CACHE)
    return {kind: [] if kind in apart else list(hardware.cell(kind, target).classes) for kind in kinds}


def held_against(planned: Kernels, said: Mapping[str, list[str]] | None) -> list[KernelUse]:
    """What became of each kind of layer. `said` are the kernels that a server's log names (server_log)."""
    found = []
    for kind, classes in planned.items():
        served = _said_of(kind, said or {})
        beside = [name for other, names in planned.items() if _shares(kind, other) for name in names]
        others = [name for name in served if name not in beside] if classes else []
        found.append(KernelUse(kind=kind, planned=classes, served=served or None, others=others))
    return found


def _said_of(kind: str, said: Mapping[str, list[str]]) -> list[str]:
    return [name for what in SAID_FOR.get(kind, ()) for name in said.get(what, [])]


def _shares(kind: str, other: str) -> bool:
    """Whether vLLM says the same name for both kinds: its log does not tell which layers have which kernel then."""
    return bool(set(SAID_FOR.get(kind, ())) & set(SAID_FOR.get(other, ())))
