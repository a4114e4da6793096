"""Runs in vLLM's environment: what vLLM runs as one, renames and keeps in 16 bits, for each architecture it knows.

    python packing_probe.py [ARCHITECTURE ...]

Without arguments all of its registry, which takes half a minute. Prints one JSON object on its last line. What classes
say of themselves is read from them; what they only say inside `load_weights` and `__init__` is read from their source.
"""

from __future__ import annotations

import ast
import contextlib
import importlib.machinery
import importlib.util
import inspect
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from types import ModuleType
from typing import Any, TypedDict

# What vLLM's models of images and sound import; where it is missing, their classes can be read all the same.
_OPTIONAL = ("torchvision", "torchaudio", "timm", "terratorch", "torchcodec")
_EXPERT_NAMES = ("ckpt_gate_proj_name", "ckpt_down_proj_name", "ckpt_up_proj_name")


class Pack(TypedDict):
    """Layers that vLLM loads into one: the name of that one, and the last parts of their own names."""

    into: str
    of: list[str]


class Renamed(TypedDict):
    """How vLLM changes names in checkpoints, in this order; None where it passes over what has the name."""

    regex: dict[str, str | None]
    substring: dict[str, str | None]
    prefix: dict[str, str | None]
    suffix: dict[str, str | None]


class Architecture(TypedDict):
    """As quantpress.plan.fused.Packing, which is not installed here."""

    module: str
    name: str
    packed: list[Pack]
    unquantized: list[str]
    embeddings: list[str]
    embeddings_by_class: list[str]
    experts: list[str] | None
    renamed: Renamed
    missing: str | None


class _Anything(type):
    """A class that has every attribute, each of them a class like it."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything(name, (), {})


class _Stand(ModuleType):
    """A module in place of one that is not installed, so that what imports it can be read."""

    __version__ = "0"

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__ = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything(name, (), {"__init__": lambda self, *args, **kwargs: None})


class _StandIns:
    """Finds the optional packages that are missing, and every module in them."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name.partition(".")[0] in _OPTIONAL:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)  # type: ignore[arg-type]
        return None

    def create_module(self, spec: Any) -> ModuleType:
        return _Stand(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


@cache
def _classes_in(module: str) -> dict[str, ast.ClassDef]:
    """The source of each class of a module."""
    with contextlib.suppress(OSError, TypeError, SyntaxError):
        parsed = ast.parse(inspect.getsource(sys.modules[module]))
        return {node.name: node for node in ast.walk(parsed) if isinstance(node, ast.ClassDef)}
    return {}


@cache
def _nodes(kind: type) -> list[ast.AST]:
    """Everything in the source of a class."""
    found = _classes_in(kind.__module__).get(kind.__name__)
    return list(ast.walk(found)) if found else []


def _classes(start: type) -> dict[type, set[str]]:
    """The class, and all that it is made of, each with the names under which others build it."""
    from torch import nn
    from vllm.model_executor.models.registry import ModelRegistry

    found: dict[type, set[str]] = {}
    waiting: list[tuple[type, str]] = [(start, "")]
    while waiting:
        kind, attribute = waiting.pop(0)
        known = kind in found
        found.setdefault(kind, set()).add(attribute)
        if known:
            continue
        for base in kind.__mro__[1:]:
            if base.__module__.startswith("vllm.") and issubclass(base, nn.Module) and _own(base):
                waiting.append((base, attribute))
        scope = vars(sys.modules[kind.__module__])
        names = {id(call.func): attribute for attribute, call in _built(kind)}
        for node in _nodes(kind):
            other = _resolved(node, scope)
            if isinstance(other, type) and issubclass(other, nn.Module) and _own(other) and other is not kind:
                waiting.append((other, names.get(id(node), "")))
            for name in _named_architectures(node):
                if name in ModelRegistry.models:
                    with contextlib.suppress(Exception):
                        waiting.append((ModelRegistry.models[name].load_model_cls(), "language_model"))
    return found


def _named_architectures(node: ast.AST) -> list[str]:
    """Of `architectures=["..."]` in a call: the model inside that is built by its name."""
    if isinstance(node, ast.keyword) and node.arg == "architectures" and isinstance(node.value, ast.List):
        return _constants(node.value.elts)
    return []


def _own(kind: type) -> bool:
    """Whether a class is of a model, and not one of the layers that all models share."""
    return kind.__module__.startswith(("vllm.model_executor.models.", "vllm.models."))


def _resolved(node: ast.AST, scope: dict[str, Any]) -> Any:
    """What a name in a source stands for, in its module."""
    if isinstance(node, ast.Name):
        return scope.get(node.id)
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return getattr(scope.get(node.value.id), node.attr, None)
    return None


@cache
def _built(kind: type) -> list[tuple[str, ast.Call]]:
    """What a class builds as its attributes: their names and calls, `self.NAME = Call(...)`."""
    found = []
    for node in _nodes(kind):
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            own = (one.attr for one in targets if isinstance(one, ast.Attribute) and _is_self(one.value))
            attribute = next(own, None)
            call = next((one for one in ast.walk(node.value) if isinstance(one, ast.Call)), None)
            if attribute and call:
                found.append((attribute, call))
    return found


def _is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "self"


def _packed(kinds: dict[type, set[str]]) -> Iterator[Pack]:
    for kind in kinds:
        of_class = kind.__dict__.get("packed_modules_mapping")
        if isinstance(of_class, dict):
            yield from (Pack(into=into, of=list(parts)) for into, parts in of_class.items())
        mapper = kind.__dict__.get("hf_to_vllm_mapper")
        yield from _stacked((into, part) for part, (into, _) in getattr(mapper, "orig_to_new_stacked", {}).items())
        yield from _in_source(kind)


def _stacked(pairs: Iterable[tuple[str, str]]) -> Iterator[Pack]:
    """Pairs of (the one, a part) put together."""
    together: dict[str, list[str]] = {}
    for into, part in pairs:
        together.setdefault(_bare(into), []).append(_bare(part))
    yield from (Pack(into=into, of=parts) for into, parts in together.items())


def _bare(name: str) -> str:
    return name.removesuffix(".weight").strip(".")


def _in_source(kind: type) -> Iterator[Pack]:
    """Lists of (the one, a part, where) in `load_weights`, and what `__init__` adds to the class' own mapping."""
    for node in _nodes(kind):
        if isinstance(node, ast.List | ast.Tuple):
            rows = [_strings(row) for row in node.elts if isinstance(row, ast.Tuple) and len(row.elts) == 3]
            yield from _stacked([(row[0], row[1]) for row in rows if row])
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript):
            target, value = node.targets[0], node.value
            if getattr(target.value, "attr", None) == "packed_modules_mapping" and isinstance(value, ast.List):
                into = getattr(target.slice, "value", None)
                if isinstance(into, str):
                    yield Pack(into=into, of=_constants(value.elts))


def _strings(row: ast.Tuple) -> tuple[str, str] | None:
    first, second = (getattr(element, "value", None) for element in row.elts[:2])
    return (first, second) if isinstance(first, str) and isinstance(second, str) else None


def _unquantized(kinds: dict[type, set[str]]) -> list[str]:
    """Layers that are built without a quantization config, by the last two parts of their names: they have no scales.

    Left out is what another class builds with one under the same name.
    """
    without: set[str] = set()
    with_config: set[str] = set()
    for kind, attributes in kinds.items():
        for attribute, call in _built(kind):
            name = _called(call)
            if not name.endswith("Linear") or name == "Linear":
                continue
            given = next((keyword.value for keyword in call.keywords if keyword.arg == "quant_config"), None)
            passed_on = any(keyword.arg is None for keyword in call.keywords)
            is_none = given is None or (isinstance(given, ast.Constant) and given.value is None)
            for parent in attributes:
                path = f"{parent}.{attribute}" if parent else attribute
                (without if is_none and not passed_on else with_config).add(path)
    return sorted(path for path in without if "." in path and path not in with_config)


def _embeddings(kinds: dict[type, set[str]], named: bool) -> list[str]:
    """Embeddings that are built with a quantization config, by the last two parts of their names, or the last alone.

    Without `named` those that are not told their own name: only a target that is a class can match them.
    """
    found: set[str] = set()
    for kind, attributes in kinds.items():
        for attribute, call in _built(kind):
            words = {keyword.arg: keyword.value for keyword in call.keywords}
            config = words.get("quant_config")
            if _called(call) != "VocabParallelEmbedding" or config is None or ("prefix" in words) != named:
                continue
            if not (isinstance(config, ast.Constant) and config.value is None):
                found |= {f"{parent}.{attribute}" if parent else attribute for parent in attributes}
    return sorted(found)


def _experts(kinds: dict[type, set[str]]) -> list[str] | None:
    """What the projections of an expert are called in checkpoints: gate, down and up; None without experts."""
    named: list[str] | None = None
    for kind in kinds:
        for node in _nodes(kind):
            if not isinstance(node, ast.Call):
                continue
            called = _called(node)
            words = {keyword.arg: keyword.value for keyword in node.keywords}
            if "ckpt_names" in words and isinstance(words["ckpt_names"], ast.Tuple):
                return _constants(words["ckpt_names"].elts)
            if any(name in words for name in _EXPERT_NAMES):
                return _constants([words[name] for name in _EXPERT_NAMES if name in words])
            if "FusedMoE" in called and "mapping" not in called:
                named = named or ["gate_proj", "down_proj", "up_proj"]
    return named


def _called(call: ast.Call) -> str:
    return str(getattr(call.func, "attr", None) or getattr(call.func, "id", ""))


def _constants(nodes: Sequence[ast.expr]) -> list[str]:
    values = [getattr(node, "value", None) for node in nodes]
    return list(dict.fromkeys(value for value in values if isinstance(value, str) and value))


def _renamed(kinds: dict[type, set[str]], start: type) -> Renamed:
    """The class' own renaming, then that of its parts; prefixes of its own only, which are those of whole names."""
    found: Renamed = {"regex": {}, "substring": {}, "prefix": {}, "suffix": {}}
    for kind in kinds:
        mapper = getattr(kind, "hf_to_vllm_mapper", None)
        if mapper is None or not hasattr(mapper, "orig_to_new_substr"):
            continue
        for pattern, new in mapper.orig_to_new_regex.items():
            found["regex"].setdefault(getattr(pattern, "pattern", pattern), new)
        for old, new in mapper.orig_to_new_substr.items():
            found["substring"].setdefault(old, new)
        for old, new in mapper.orig_to_new_suffix.items():
            found["suffix"].setdefault(old, new)
        if kind is start:
            found["prefix"] = dict(mapper.orig_to_new_prefix)
    return found


def _described(kind: type) -> Architecture:
    kinds = _classes(kind)
    packed = {(pack["into"], tuple(dict.fromkeys(pack["of"]))) for pack in _packed(kinds) if _is_pack(pack)}
    packed -= {one for one in packed for other in packed if one != other and _within(one, other)}
    return {
        "module": kind.__module__,
        "name": kind.__name__,
        "packed": [{"into": into, "of": list(parts)} for into, parts in sorted(packed)],
        "unquantized": _unquantized(kinds),
        "embeddings": _embeddings(kinds, named=True),
        "embeddings_by_class": _embeddings(kinds, named=False),
        "experts": _experts(kinds),
        "renamed": _renamed(kinds, kind),
        "missing": None,
    }


def _is_pack(pack: Pack) -> bool:
    """Several layers in one; experts are told apart by their own names."""
    return len(set(pack["of"])) > 1 and not any("experts." in name for name in (pack["into"], *pack["of"]))


def _within(one: tuple[str, tuple[str, ...]], other: tuple[str, tuple[str, ...]]) -> bool:
    """Whether the other says the same of more layers."""
    pairs = zip(one[1], other[1], strict=False)
    return len(one[1]) == len(other[1]) and all(name.endswith(f".{wide}") for name, wide in pairs)


def described(names: list[str]) -> dict[str, Architecture]:
    """Of each architecture, or of all that the registry knows."""
    from vllm.model_executor.models.registry import ModelRegistry

    wanted = {
        name: ModelRegistry.models[name]
        for name in names or sorted(ModelRegistry.models)
        if name in ModelRegistry.models
    }
    missing: dict[str, str] = {}
    for name, registered in wanted.items():
        try:
            registered.load_model_cls()
        except Exception as error:
            missing[name] = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
    if missing:
        _stand_in()
    found: dict[str, Architecture] = {}
    for name, registered in wanted.items():
        try:
            found[name] = _described(registered.load_model_cls())
        except Exception as error:
            print(f"{name} cannot be read: {type(error).__name__}: {error}", file=sys.stderr)
            continue
        found[name]["missing"] = missing.get(name)
    return found


def _stand_in() -> None:
    """Lets modules that need what is not installed be imported all the same."""
    if any(importlib.util.find_spec(name) is None for name in _OPTIONAL):
        sys.meta_path.append(_StandIns())


def main(names: list[str]) -> dict[str, Any]:
    """Architectures, and those that vLLM served once, each with what it says of them."""
    from vllm.model_executor.models import registry

    dropped = {
        **{name: f"vLLM served it until {version}" for name, version in registry._PREVIOUSLY_SUPPORTED_MODELS.items()},
        **{name: f"vLLM serves it with a plugin: {url}" for name, url in registry._OOT_SUPPORTED_MODELS.items()},
    }
    return {"architectures": described(names), "dropped": dropped}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1:])))
