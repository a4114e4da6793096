"""llmcompressor's own recipe files (`NAME_stage: {NAME_modifiers: {NameModifier: {...}}}`), read as recipes of ours.

What its parser skips without a word is an error here. What older releases wrote and the present one rejects is
translated, with a notice. Its defaults are kept where they differ from ours: `ignore` is empty there.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from quantpress.errors import nearest
from quantpress.language.document import Document, Loc

Body = dict[str, Any]
_NO_EFFECT = "does nothing in oneshot; remove it"
# Of training, where oneshot has one step; and what llmcompressor writes into each recipe.yaml as it finds it itself.
_LIFECYCLE = ("group", "index", "start", "end", "update", "requires_calibration_data")
_NULL_MEANS_NONE = ("actorder", "batched_quantization")  # elsewhere null is the default
_QUANT_ARGS_UNUSED = ("zp_dtype", "scale_dtype", "observer_kwargs", "actorder", "block_structure", "group_size")


def is_llmcompressors(data: Any) -> bool:
    ends = ("_stage", "_modifiers", "Modifier")
    return isinstance(data, dict) and any(str(key).endswith(ends) for key in data)


def translated(document: Document) -> Document:
    """A recipe of ours that says the same. Problems are collected in it, each where it stands in the file."""
    name = re.sub(r"[^a-z0-9._-]+", "-", document.source.stem.lower()).strip("-._")[:64] or "recipe"
    description = f"llmcompressor's recipe {document.source.name}"
    made = Document(document.source, {"name": name, "description": description, "modifiers": []})
    made.problems, made.marks[()] = document.problems, document.mark(())
    made.marks["modifiers",] = document.mark(())
    for loc, kind, body in _entries(document):
        _add(made, document, loc, kind, body)
    return made


def _entries(document: Document) -> list[tuple[Loc, str, Any]]:
    """Every modifier with its place, in the order in which llmcompressor runs them."""
    found: list[tuple[Loc, str, Any]] = []
    for stage, groups in document.data.items():
        if stage == "args" and not groups:
            continue
        if not stage.endswith("_stage") or not isinstance(groups, dict):
            document.problem((stage,), f"llmcompressor skips {stage!r} silently: modifiers go in NAME_stage: {{...}}")
            continue
        for group, modifiers in groups.items():
            if (group, modifiers) == ("run_type", "oneshot"):
                continue
            if not group.endswith("_modifiers") or not isinstance(modifiers, dict):
                what = f"llmcompressor skips {group!r} silently: modifiers go in NAME_modifiers: {{...}}"
                document.problem((stage, group), what)
                continue
            found += [((stage, group, kind), kind, body) for kind, body in modifiers.items()]
    return found


def _add(made: Document, document: Document, loc: Loc, kind: str, body: Any) -> None:
    if kind not in _KINDS:
        document.problem(loc, f"{kind!r} is not a modifier of llmcompressor; {nearest(kind, _KINDS)}")
        return
    if not isinstance(body, dict):
        document.problem(loc, f"{kind} has no body; write {kind}: {{}} for its defaults")
        return
    name, translate = _KINDS[kind]
    if translate is None:
        document.problem(loc, f"{kind} {_NO_EFFECT}")
        return
    given = {key: value for key, value in body.items() if key not in _LIFECYCLE}
    given = {key: value for key, value in given.items() if value is not None or key in _NULL_MEANS_NONE}
    index = len(made.data["modifiers"])
    made.data["modifiers"].append({name: translate(given, made.notices)})
    place: Loc = ("modifiers", index, name)
    named = body.get("config_groups")
    groups = list(named) if isinstance(named, dict) else []
    for where, mark in document.part(loc).marks.items():
        made.marks[(*place, *_renamed(where, groups))] = mark
    made.marks["modifiers", index] = made.marks[place]


def _renamed(where: Loc, groups: list[str]) -> Loc:
    """Where a field of theirs stands in ours; `groups` are the names of their groups, which ours lists in order."""
    if where[:1] == ("config_groups",):
        return ("groups", *(groups.index(str(name)) if name in groups else name for name in where[1:2]), *where[2:])
    return ("kv_cache", *where[1:]) if where[:1] == ("kv_cache_scheme",) else where


def _quantizing(body: Body, notices: list[str]) -> Body:
    body = {"ignore": [], **body}
    if body.get("bypass_divisibility_checks") is False:
        del body["bypass_divisibility_checks"]
    body = _lists(body, "targets", "ignore")
    if "config_groups" in body:
        groups = body.pop("config_groups")
        body["groups"] = [_group(group) for group in groups.values()] if isinstance(groups, dict) else groups
        body.pop("targets", None)  # llmcompressor takes those of the groups
        if _names_nothing(body["groups"]) and "kv_cache_scheme" in body:
            del body["groups"]  # the KV cache alone
    if isinstance(scheme := body.get("scheme"), dict):
        del body["scheme"]
        body["groups"] = [
            _lists({"scheme": _upper(name), "targets": names}, "targets") for name, names in scheme.items()
        ]
        body.pop("targets", None)
    elif "scheme" in body:
        body["scheme"] = _upper(scheme)
    if "kv_cache_scheme" in body:
        cache = body.pop("kv_cache_scheme")
        if isinstance(cache, dict):
            cache = {
                key: value for key, value in cache.items() if _is_said(key, value) and (key, value) not in _KV_FIXED
            }
        body["kv_cache"] = cache
    return _with_observers(body)


def _names_nothing(groups: Any) -> bool:
    """Whether no group has a target or a scheme: how llmcompressor's users say that no layer is quantized."""
    return isinstance(groups, list) and all(
        isinstance(group, dict) and not group.get("targets") and not group.keys() & {"weights", "scheme"}
        for group in groups
    )


_KV_FIXED = (("dynamic", False), ("symmetric", True))


def _is_said(key: str, value: Any) -> bool:
    """Whether an argument says anything: saved recipes have all of them, most as what they are by default."""
    if key == "zp_dtype":
        return value not in (None, {}, False, "torch.int8", "int8")
    return value is not None and (key not in _QUANT_ARGS_UNUSED or value not in ({}, False))


def _group(group: Any) -> Any:
    if not isinstance(group, dict):
        return group
    given = _lists({key: value for key, value in group.items() if value is not None}, "targets")
    given.pop("format", None)
    for part in ("weights", "input_activations"):
        if part in given:
            given[part] = _arguments(given[part])
    weights = given.get("weights")
    if isinstance(weights, dict) and (weights.get("type"), weights.get("num_bits")) == ("float", 4):
        inputs = given.get("input_activations")
        alike = isinstance(inputs, dict) and (inputs.get("type"), inputs.get("num_bits")) == ("float", 4)
        name = {16: "NVFP4", 32: "MXFP4"}.get(weights.get("group_size", 0), "")
        if name and (alike or inputs is None):
            observer = {"weight_observer": weights["observer"]} if "observer" in weights else {}
            return {"targets": given.get("targets"), "scheme": name + ("" if alike else "A16"), **observer}
    return given


def _arguments(arguments: Any) -> Any:
    if not isinstance(arguments, dict):
        return arguments
    given = {key: value for key, value in arguments.items() if _is_said(key, value)}
    for key in ("type", "strategy"):
        if isinstance(given.get(key), str):
            given[key] = given[key].lower()
    if given.get("group_size") == -1:
        del given["group_size"]
        given.setdefault("strategy", "channel")
    if isinstance(structure := given.get("block_structure"), str) and re.fullmatch(r"\d{1,4}x\d{1,4}", structure):
        given["block_structure"] = [int(part) for part in structure.split("x")]
    given.setdefault("strategy", "group" if "group_size" in given else "tensor")
    return given


def _with_observers(body: Body) -> Body:
    """Their three ways to name an observer, as ours: beside a preset, or in explicit arguments."""
    named = body.get("observer")
    if isinstance(named, dict) and named.keys() <= _OBSERVED.keys():
        del body["observer"]
    chosen = {"weights": body.pop("weight_observer", None), "input": body.pop("input_observer", None)}
    if isinstance(named, dict):
        chosen |= named
    groups = body.get("groups")
    for group in groups if isinstance(groups, list) else [body]:
        for part, (beside, inside) in _OBSERVED.items():
            if not chosen.get(part) or not isinstance(group, dict):
                continue
            if isinstance(arguments := group.get(inside), dict):
                arguments["observer"] = chosen[part]
            elif "scheme" in group:
                group[beside] = chosen[part]
    return body


_OBSERVED = {"weights": ("weight_observer", "weights"), "input": ("input_observer", "input_activations")}


def _gptq(body: Body, notices: list[str]) -> Body:
    if "sequential_update" in body:
        body = {key: value for key, value in body.items() if key != "sequential_update"}
        notices.append("GPTQModifier's sequential_update is of an older release: layers always go in sequence now")
    named = {key: body[key] or "none" for key in _NULL_MEANS_NONE if key in body}
    return _quantizing(body | named, notices)


def _awq(body: Body, notices: list[str]) -> Body:
    if not {"scheme", "config_groups"} & body.keys():
        if left := {"targets", "ignore"} & body.keys():
            body = {key: value for key, value in body.items() if key not in left}
            notices.append(f"AWQModifier's {' and '.join(sorted(left))} are of an older release and left out")
        return body
    notices.append(
        "AWQModifier with a scheme is of an older release: run as AWQModifier and a QuantizationModifier after it"
    )
    return _quantizing(body, notices)


def _smoothquant(body: Body, notices: list[str]) -> Body:
    body = _lists({key: value for key, value in body.items() if key != "num_calibration_steps"}, "ignore")
    if isinstance(mappings := body.get("mappings"), list):
        body["mappings"] = [_mapping(mapping) for mapping in mappings]
    return body


def _mapping(mapping: Any) -> Any:
    if not isinstance(mapping, list) or len(mapping) != 2:
        return mapping
    return _lists({"balance_layers": mapping[0], "smooth_layer": mapping[1]}, "balance_layers")


def _log_equalization(body: Body, notices: list[str]) -> Body:
    return {**_smoothquant(body, notices), "algorithm": "log_equalization"}


def _pruning(body: Body, notices: list[str]) -> Body:
    dropped = {"sequential_update"} | ({"mask_structure"} if body.get("mask_structure") == "0:0" else set())
    return _lists(
        {"ignore": [], **{key: value for key, value in body.items() if key not in dropped}}, "targets", "ignore"
    )


def _rotation(body: Body, notices: list[str]) -> Body:
    fixed = {key: value for key, value in body.items() if key not in ("randomize", "learnable") or value}
    if isinstance(rotations := fixed.get("rotations"), list):
        upper = all(str(name).upper().startswith("R") for name in rotations)
        fixed["rotations"] = [str(name).upper() if upper else str(name).lower() for name in rotations]
    return _lists(fixed, "targets", "ignore")


def _as_it_is(body: Body, notices: list[str]) -> Body:
    return _lists(body, "ignore")


def _lists(body: Body, *fields: str) -> Body:
    """The same with one name where a list is meant made a list."""
    return {key: [value] if key in fields and isinstance(value, str) else value for key, value in body.items()}


def _upper(name: Any) -> Any:
    return name.upper() if isinstance(name, str) else name


_KINDS: dict[str, tuple[str, Callable[[Body, list[str]], Body] | None]] = {
    "QuantizationModifier": ("rtn", _quantizing),
    "GPTQModifier": ("gptq", _gptq),
    "AWQModifier": ("awq", _awq),
    "AutoRoundModifier": ("autoround", _quantizing),
    "SmoothQuantModifier": ("smoothquant", _smoothquant),
    "LogarithmicEqualizationModifier": ("smoothquant", _log_equalization),
    "SpinQuantModifier": ("spinquant", _rotation),
    "QuIPModifier": ("quip", _rotation),
    "SparseGPTModifier": ("sparsegpt", _pruning),
    "WandaPruningModifier": ("wanda", _pruning),
    "REAPPruningModifier": ("reap", _as_it_is),
    "MagnitudePruningModifier": ("", None),
    "ConstantPruningModifier": ("", None),
}
