"""Which layers SmoothQuant and AWQ rescale, by architecture: llmcompressor's tables, so that mappings can be counted.

Each mapping is "norm > layers it feeds", by the last parts of their names. A test compares the tables with
llmcompressor's own. Architectures of its tables that are not here have mappings that depend on more than names.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from quantpress.model.layers import Layers
from quantpress.model.patterns import matching

Pairs = tuple[str, ...]
_QKV = "input_layernorm > q_proj k_proj v_proj"
_DOWN = "up_proj > down_proj"
_MLP = "post_attention_layernorm > gate_proj up_proj"
_DEFAULT_SMOOTHQUANT: Pairs = (_QKV, _MLP)
_PHI = ("input_layernorm > qkv_proj", "post_attention_layernorm > gate_up_proj")
_DEFAULT_AWQ: Pairs = (_QKV, "v_proj > o_proj", _MLP, _DOWN)
_COHERE = "input_layernorm > self_attn.q_proj self_attn.k_proj self_attn.v_proj mlp.gate_proj mlp.up_proj"
_MLA = (
    "input_layernorm > (q|q_a)_proj kv_a_proj_with_mqa",
    "q_a_layernorm > q_b_proj",
    "kv_a_layernorm > kv_b_proj",
)
_EXPERTS = "post_attention_layernorm > mlp.gate mlp.experts.*.gate_proj mlp.experts.*.up_proj"

SMOOTHQUANT: dict[str, Pairs] = {
    **dict.fromkeys(
        (
            "Gemma2ForCausalLM",
            "Gemma3ForCausalLM",
            "Glm4MoeForCausalLM",
            "GraniteForCausalLM",
            "LlamaForCausalLM",
            "MistralForCausalLM",
            "Mistral3ForConditionalGeneration",
            "Qwen2ForCausalLM",
            "Qwen3ForCausalLM",
            "SeedOssForCausalLM",
        ),
        _DEFAULT_SMOOTHQUANT,
    ),
    **dict.fromkeys(
        ("Ernie4_5_MoeForCausalLM", "MixtralForCausalLM", "Qwen2MoeForCausalLM", "Qwen3MoeForCausalLM"), (_QKV,)
    ),
    **dict.fromkeys(("CohereForCausalLM", "Cohere2ForCausalLM"), (_COHERE,)),
    "Phi3ForCausalLM": _PHI,
    **dict.fromkeys(
        ("DeepseekV2ForCausalLM", "DeepseekV3ForCausalLM", "Glm4MoeLiteForCausalLM"),
        ("input_layernorm > q(_a)?_proj kv_a_proj_with_mqa",),
    ),
}

AWQ: dict[str, Pairs] = {
    **dict.fromkeys(
        (
            "GraniteForCausalLM",
            "LlamaForCausalLM",
            "MistralForCausalLM",
            "Mistral3ForConditionalGeneration",
            "Qwen2ForCausalLM",
            "Qwen3ForCausalLM",
            "SeedOssForCausalLM",
        ),
        _DEFAULT_AWQ,
    ),
    **dict.fromkeys(
        ("Glm4MoeForCausalLM", "Qwen2MoeForCausalLM", "Qwen3MoeForCausalLM"),
        (_QKV, "v_proj > o_proj", _EXPERTS, _DOWN),
    ),
    **dict.fromkeys(("CohereForCausalLM", "Cohere2ForCausalLM"), (_COHERE, "v_proj > o_proj", _DOWN)),
    **dict.fromkeys(("Exaone4ForCausalLM", "OlmoForCausalLM", "Olmo3ForCausalLM"), ("v_proj > o_proj", _DOWN)),
    "Phi3ForCausalLM": (_PHI[0], "qkv_proj > o_proj", _PHI[1], "gate_up_proj > down_proj"),
    "Gemma2ForCausalLM": (_QKV, "v_proj > o_proj", "pre_feedforward_layernorm > gate_proj up_proj", _DOWN),
    "Gemma3ForCausalLM": ("v_proj > o_proj", "pre_feedforward_layernorm > gate_proj up_proj", _DOWN),
    **dict.fromkeys(("DeepseekV2ForCausalLM", "Glm4MoeLiteForCausalLM"), (*_MLA, _MLP, _DOWN)),
    "DeepseekV3ForCausalLM": (*_MLA, "post_attention_layernorm > mlp.gate gate_proj up_proj", _DOWN),
}

# In llmcompressor's tables, but not countable from names and shapes alone.
UNCOUNTED = re.compile(
    r"ConditionalGeneration|Bloom|Afmoe|Qwen3Next|Qwen3_5|Step3p5|Phi3V|Vision|Whisper|Omni|Cohere2Moe|Dsa"
)


@dataclass(frozen=True)
class Resolved:
    """One layer to rescale and the layers that take what it gives."""

    smooth: str
    balance: tuple[str, ...]


def of_architecture(algorithm: str, architecture: str) -> list[tuple[str, list[str]]] | None:
    """Patterns (smooth, balance) that llmcompressor takes; its default for what it does not know, None if uncounted."""
    table, default = (AWQ, _DEFAULT_AWQ) if algorithm == "awq" else (SMOOTHQUANT, _DEFAULT_SMOOTHQUANT)
    if architecture not in table and UNCOUNTED.search(architecture):
        return None
    pairs = [pair.split(" > ") for pair in table.get(architecture, default)]
    return [(f"re:.*{smooth}$", [f"re:.*{name}$" for name in balance.split()]) for smooth, balance in pairs]


def resolve(mappings: Sequence[tuple[str, list[str]]], layers: Layers) -> tuple[list[Resolved], list[str]]:
    """Every mapping resolved within its decoder layer, and the patterns that match nothing although others do.

    llmcompressor stops on the latter ("incomplete set"), and passes in silence over a mapping of which nothing matches.
    """
    found: list[Resolved] = []
    missing: list[str] = []
    for smooth, balance in mappings:
        smooth_names = matching(smooth, layers.names)
        balance_names = {pattern: matching(pattern, layers.names) for pattern in balance}
        unmatched = [pattern for pattern, names in balance_names.items() if not names]
        if not smooth_names and len(unmatched) == len(balance):
            continue
        missing += ([] if smooth_names else [smooth]) + unmatched
        every = [name for names in balance_names.values() for name in names]
        found += _within_parents(smooth_names, every)
    return found, missing


def _within_parents(smooth_names: list[str], balance_names: list[str]) -> list[Resolved]:
    by_parent: dict[str, list[str]] = {}
    for name in balance_names:
        parts = name.split(".")
        for depth in range(1, len(parts)):
            by_parent.setdefault(".".join(parts[:depth]), []).append(name)
    pairs = ((smooth, by_parent.get(smooth.rpartition(".")[0], [])) for smooth in smooth_names)
    return [Resolved(smooth, tuple(balance)) for smooth, balance in pairs if balance]


def fits(mapping: Resolved, layers: Layers) -> bool:
    """AWQ leaves out v_proj > o_proj where their widths differ, as with grouped queries."""
    shares = 3 if mapping.smooth.endswith(".qkv_proj") else 1
    widths = {layers.linears[name][1] for name in mapping.balance if name.endswith(".o_proj")}
    shape = layers.linears.get(mapping.smooth)
    return shape is None or all(shape[0] == shares * width for width in widths)
