"""What vLLM runs as one layer, keeps in 16 bits and calls by other names, by architecture: as vLLM itself says.

The table fused.json comes from vLLM's own classes (scripts/make_fused_table.py), and a test compares it with the vLLM
that is installed. An installed vLLM of another version is asked anew (quantpress_serve.probes.asking).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import Field

from quantpress.errors import InputError, enumerated
from quantpress.model.config import Config, text_config
from quantpress.model.layers import EXPERT, Layers
from quantpress.recipe.presets import Scheme
from quantpress.runtime.records import Record

TABLE = Path(__file__).with_name("fused.json")
_BACKEND = "vllm.model_executor.models.transformers"


class Pack(Record):
    """Layers that vLLM loads into one, by the last parts of their names."""

    into: str
    of: tuple[str, ...]


class Renamed(Record):
    """How vLLM changes names of weights, in this order; what it changes to None it does not load."""

    regex: dict[str, str | None] = Field(default_factory=dict)
    substring: dict[str, str | None] = Field(default_factory=dict)
    prefix: dict[str, str | None] = Field(default_factory=dict)
    suffix: dict[str, str | None] = Field(default_factory=dict)


class Packing(Record):
    """What a class of vLLM does with the layers of a checkpoint.

    `unquantized` are layers that it builds for 16 bits whatever the checkpoint says, by the last two parts of their
    names; `embeddings` the embeddings that it loads quantized, by the last two parts or the last, and
    `embeddings_by_class` those that only a target that is a class reaches; `experts` what it calls an expert's
    projections; `missing` why the vLLM that was asked cannot import it.
    """

    module: str = ""
    name: str = ""
    packed: list[Pack] = Field(default_factory=list)
    unquantized: list[str] = Field(default_factory=list)
    embeddings: list[str] = Field(default_factory=list)
    embeddings_by_class: list[str] = Field(default_factory=list)
    experts: list[str] | None = None
    renamed: Renamed = Field(default_factory=Renamed)
    missing: str | None = None

    def vllm_name(self, layer: str) -> str:
        """What vLLM calls a layer of the checkpoint."""
        name = f"{layer}.weight"
        for pattern, new in self.renamed.regex.items():
            name = re.sub(pattern, new, name) if new is not None else name
        for old, new in self.renamed.substring.items():
            name = name.replace(old, new, 1) if new is not None else name
        for old, new in self.renamed.prefix.items():
            name = new + name.removeprefix(old) if new is not None and name.startswith(old) else name
        for old, new in self.renamed.suffix.items():
            name = name.removesuffix(old) + new if new is not None and name.endswith(old) else name
        return name.removesuffix(".weight")


# What nearly all of vLLM's classes do, and what its backend for models of transformers finds by their graphs.
GENERIC = Packing(
    packed=[
        Pack(into="qkv_proj", of=("q_proj", "k_proj", "v_proj")),
        Pack(into="gate_up_proj", of=("gate_proj", "up_proj")),
        Pack(into="gate_up_proj", of=("w1", "w3")),
        Pack(into="fused_qkv_a_proj", of=("q_a_proj", "kv_a_proj_with_mqa")),
    ]
)


@cache
def _table() -> dict[str, Any]:
    table: dict[str, Any] = json.loads(TABLE.read_text(encoding="utf-8"))
    return table


def table_version() -> str:
    """The version of vLLM that the table was made from."""
    return str(_table()["vllm"])


def known() -> dict[str, Packing]:
    """Every architecture of the table."""
    return {name: Packing.model_validate(row) for name, row in _table()["architectures"].items()}


def architecture(config: Config) -> str | None:
    """The class that a config names."""
    named = config.get("architectures")
    return str(named[0]) if isinstance(named, list) and named else None


def architectures(config: Config) -> tuple[str, ...]:
    """The classes that a config names: the model's, and that of the language model inside, where it names one."""
    named = (architecture(config), architecture(text_config(config)))
    return tuple(dict.fromkeys(name for name in named if name))


def packing_of(config: Config) -> Packing:
    """What vLLM's class for this model does, by the table; `GENERIC` for one that it does not have."""
    rows = _table()["architectures"]
    named = architectures(config)
    return joined(named, {name: Packing.model_validate(rows[name]) for name in named if name in rows}) or GENERIC


def joined(named: Sequence[str], known: Mapping[str, Packing]) -> Packing | None:
    """What vLLM's class for a model does, together with that for the language model inside; None for one not known."""
    if not named or named[0] not in known:
        return None
    found = known[named[0]]
    inner = [known[name] for name in named[1:] if name in known]
    if found.module == _BACKEND:
        inner.append(GENERIC)
    return found.model_copy(update={"packed": [pack for one in (found, *inner) for pack in one.packed]})


def unserved(named: str | None) -> str | None:
    """Why vLLM serves no model of this architecture; None where it does or may."""
    reason = _table()["dropped"].get(named)
    return f"vLLM {table_version()} does not serve {named}: {reason}" if reason else None


def notes(named: str | None) -> list[str]:
    """What a person should know where vLLM has no class of its own for a model."""
    if named is None or named in _table()["architectures"]:
        return []
    if reason := unserved(named):
        return [reason]
    return [
        f"vLLM {table_version()} has no class for {named}: if anything, its backend for models of transformers serves "
        "it; q/k/v and gate/up are taken for fused"
    ]


def fused_sets(packing: Packing, structure: Layers) -> list[list[str]]:
    """The layers, but experts, that vLLM runs as one; those of each set in its order."""
    names = [name for name in structure.linears if ".experts." not in name]  # these may be tens of thousands
    by_name = {packing.vllm_name(structure.stored_name(name)): name for name in names}
    found: dict[tuple[str, ...], None] = {}
    for pack in packing.packed:
        parents = {parent: None for name in by_name for part in pack.of if (parent := _parent(name, part))}
        for parent in parents:
            together = [by_name[one] for part in pack.of if (one := f"{parent}{part}") in by_name]
            if len(together) > 1:
                found[tuple(together)] = None
    return [list(together) for together in found]


def _parent(name: str, part: str) -> str | None:
    """What stands before this last part of a name, with its dot; None if the name ends otherwise."""
    parent = name.removesuffix(part)
    return parent if parent != name and parent.endswith(".") else None


def expert_sets(names: Iterable[str]) -> list[list[str]]:
    """The projections of all routed experts of a layer, which vLLM runs as one fused MoE layer."""
    experts: dict[str, list[str]] = {}
    for name in names:
        if match := EXPERT.match(name):
            experts.setdefault(match["layer"], []).append(name)
    return list(experts.values())


def check(schemes: dict[str, Scheme], structure: Layers, packing: Packing) -> None:
    """Raises InputError for parts of one layer of vLLM's that are treated differently, and for what it keeps in 16
    bits and a recipe does not."""
    for together in [*fused_sets(packing, structure), *expert_sets(structure.linears)]:
        first = together[0]
        for other in together[1:]:
            if schemes.get(first) != schemes.get(other):
                raise InputError(
                    f"{first} and {other} are treated differently ({_name(schemes.get(first))}, "
                    f"{_name(schemes.get(other))}), but vLLM runs them as one layer and refuses to load them",
                    hint=f"target or ignore all of {_listed(together)}",
                )
    kept = {name: theirs for name in schemes if (theirs := _kept_in_16_bits(name, structure, packing))}
    for name, theirs in kept.items():
        patterns = dict.fromkeys(f'"re:.*{re.escape(_last_two(one))}$"' for one in kept)
        raise InputError(
            f"{name} is quantized, but vLLM keeps {theirs} in 16 bits and cannot load it quantized",
            hint=f"add {', '.join(patterns)} to `ignore`",
        )


def unserved_embedding(
    name: str, scheme: Scheme, targets: Iterable[str], structure: Layers, packing: Packing
) -> str | None:
    """Why vLLM does not load this embedding quantized by a group with these targets; None where it does."""
    theirs = packing.vllm_name(structure.stored_name(name))
    known = {_last(theirs), _last_two(theirs)}
    whose = packing.name or "backend for models of transformers"
    if not known & {*packing.embeddings, *packing.embeddings_by_class}:
        return f"vLLM's {whose} keeps {_last_two(theirs)} in 16 bits"
    if scheme.kind != "int" or not scheme.symmetric or scheme.strategy not in ("group", "channel"):
        return f"vLLM loads embeddings as symmetric integers in groups or channels only, not {_name(scheme)}"
    # vLLM finds a target that is a class inside of the name of its own class, VocabParallelEmbedding.
    if not known & set(packing.embeddings) and "Embedding" not in targets:
        return f"vLLM's {whose} finds {_last_two(theirs)} quantized only where `targets` name the class Embedding"
    return None


def expert_notes(schemes: dict[str, Scheme], structure: Layers, packing: Packing) -> list[str]:
    """Whether vLLM looks for quantized experts under other names than those that a checkpoint will have."""
    theirs = packing.experts or []
    for name in schemes:
        if theirs and EXPERT.match(name):
            stored = structure.stored_name(name)
            if not {_last(stored), _last(packing.vllm_name(stored))} & set(theirs):
                return [
                    f"vLLM {table_version()}'s {packing.name} calls an expert's projections {', '.join(theirs)}, and "
                    f"the checkpoint will have {stored}: serve it before you rely on it, or ignore re:.*experts"
                ]
    return []


def left_alone(structure: Layers, packing: Packing) -> Layers:
    """The layers with those that vLLM keeps in 16 bits among what a default `ignore` has."""
    kept = [name for name in structure.linears if _kept_in_16_bits(name, structure, packing)]
    left = structure.left_alone or {"lm_head": "the output head"}
    known = {name for pattern in left for name in structure.matching(pattern, kept)}
    reasons = {name: "vLLM keeps it in 16 bits" for name in kept if name not in known}
    return replace(structure, left_alone={**left, **reasons}) if reasons else structure


def _kept_in_16_bits(name: str, structure: Layers, packing: Packing) -> str | None:
    """The layer of vLLM's that takes this one and has no scales."""
    if EXPERT.match(name):
        return None
    theirs = packing.vllm_name(structure.stored_name(name))
    packed = [f"{parent}{one.into}" for one in packing.packed for part in one.of if (parent := _parent(theirs, part))]
    return next((_last_two(one) for one in [theirs, *packed] if _last_two(one) in packing.unquantized), None)


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _last_two(name: str) -> str:
    return ".".join(name.split(".")[-2:])


def _listed(together: list[str]) -> str:
    if EXPERT.match(together[0]):
        return f"the {len(together)} projections of the experts (re:.*experts)"
    return enumerated([_last(name) for name in together])


def _name(scheme: Scheme | None) -> str:
    if scheme is None:
        return "not quantized"
    reach = f"group of {scheme.group_size}" if scheme.group_size else scheme.strategy
    return f"{scheme.weight_bits} bits, {reach}"
