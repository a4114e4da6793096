"""Nothing lost: every tensor and every file of the model is in its checkpoint, or it is known why not."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from quantpress.artifact.manifest import Account
from quantpress.errors import StageError
from quantpress.model import headers
from quantpress.model.headers import Tensor
from quantpress.model.side_files import copied, side_files
from quantpress.model.source import Model
from quantpress.model.structure import Structure, structure_of
from quantpress.plan.resolve import Plan
from quantpress.quantize import retyped
from quantpress.recipe.modifiers import Awq, Modifier, Reap
from quantpress.runtime import atomic

INDEX = "model.safetensors.index.json"
NOT_LOADED = "model-not-loaded.safetensors"
_CODE = ".py"
_SEVERAL_EXPERTS = re.compile(r"(.+\.experts)\.(?!\d+\.)[^.]+")
_QUANTIZED = ("weight_scale", "weight_packed")  # what a quantized layer has beside, or in place of, its weight


def keep_what_is_not_loaded(source: Path, checkpoint: Path, names: Sequence[str]) -> None:
    """Copies tensors that transformers never loads (layers for speculative decoding) bit for bit into the checkpoint.

    They get a file of their own, are listed in the index, and left out of quantization in the config.
    """
    wanted = set(names)
    tensors = {name: tensor for name, tensor in headers.read_folder(source).items() if name in wanted}
    headers.write(checkpoint / NOT_LOADED, tensors, headers.reader(headers.weight_files(source)))
    _list_in_index(checkpoint, names)
    _ignore_in_config(checkpoint, names)


def _list_in_index(checkpoint: Path, names: Sequence[str]) -> None:
    path = checkpoint / INDEX
    if path.is_file():
        index = json.loads(path.read_text(encoding="utf-8"))
    else:
        weights = {name: file.name for file in headers.weight_files(checkpoint) for name in headers.read(file)}
        index = {"metadata": {}, "weight_map": weights}
    index["weight_map"] |= dict.fromkeys(names, NOT_LOADED)
    atomic.write_json(path, index)
    _say_size_in_index(checkpoint)


def _say_size_in_index(checkpoint: Path) -> None:
    path = checkpoint / INDEX
    if path.is_file():
        index = json.loads(path.read_text(encoding="utf-8"))
        tensors = headers.read_folder(checkpoint).values()
        index["metadata"] = {**index.get("metadata", {}), "total_size": sum(tensor.nbytes for tensor in tensors)}
        atomic.write_json(path, index)


def _ignore_in_config(checkpoint: Path, names: Sequence[str]) -> None:
    path = checkpoint / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    modules = sorted({name.removesuffix(".weight") for name in names if name.endswith(".weight")})
    # Several experts in one tensor: vLLM asks for each by a name of its own.
    fused = {found[1] for name in names if (found := _SEVERAL_EXPERTS.fullmatch(name))}
    modules += [f"re:^{re.escape(prefix)}\\..*" for prefix in sorted(fused)]
    if quantized := config.get("quantization_config"):
        quantized["ignore"] = [*quantized.get("ignore", []), *modules]
        atomic.write_json(path, config)


def keep_side_files(source: Path, checkpoint: Path, trust_remote_code: bool) -> list[str]:
    """Copies what the checkpoint lacks of the model's other files: processors, vocabularies, licence; code if trusted.

    Returns their names.
    """
    missing = [
        path
        for path in side_files(source)
        if (trust_remote_code or path.suffix != _CODE) and not (checkpoint / path.relative_to(source)).exists()
    ]
    for path in missing:
        copied(path, source, checkpoint)
    return [path.relative_to(source).as_posix() for path in missing]


def complete(checkpoint: Path, model: Model, plan: Plan) -> Account:
    """Makes the checkpoint whole: side files, tensors that transformers never loads, and the type of those that it
    loads as another. Returns where each tensor is.

    Raises StageError if a tensor of the model is missing, or is another one although no modifier of the recipe changes
    what it does not quantize.
    """
    keep_side_files(model.path, checkpoint, model.trust_remote_code)
    _ignore_under_both_names(checkpoint, plan)
    source = headers.read_folder(model.path)
    structure = structure_of(model.path, model.config, source, model.trust_remote_code)
    found = where(source, headers.read_folder(checkpoint), structure, plan)
    if lost := found["lost"]:
        raise StageError(
            f"{len(lost)} tensors of the model are in no file of the checkpoint: {', '.join(lost[:3])}",
            hint="report this with the model's config.json; such a checkpoint would serve something else",
        )
    if own := [name for name in tied_heads(found["dropped"], plan) if not is_the_embedding(name, plan, model.path)]:
        raise StageError(
            f"{own[0]} is another tensor than the embedding, and in no file of the checkpoint, although config.json "
            "says that they are one",
            hint="report this with the model's config.json; such a checkpoint would serve something else",
        )
    saved = {name: structure.renamed.get(name, name) for name in source}
    changed = _differing(model.path, checkpoint, found["kept"], structure)
    same, others = retyped.told_apart(model.path, checkpoint, {name: saved[name] for name in found["retyped"]})
    changed += others
    if changed and not any(_changes_weights(modifier) for modifier in plan.recipe.modifiers):
        raise StageError(
            f"{len(changed)} tensors of the checkpoint are not the model's, although nothing in the recipe changes "
            f"them: {', '.join(changed[:3])}",
            hint="report this with the model's config.json; such a checkpoint would serve something else",
        )
    if found["not_loaded"]:
        keep_what_is_not_loaded(model.path, checkpoint, found["not_loaded"])
    if same:
        retyped.restore(model.path, checkpoint, {saved[name]: name for name in same})
        _say_size_in_index(checkpoint)
    counts = {place: len(names) for place, names in found.items() if place not in ("lost", "retyped")}
    kept = len(found["kept"]) + len(found["retyped"]) - len(changed)
    return Account(**counts | {"kept": kept, "changed": len(changed)})


def tied_heads(names: Iterable[str], plan: Plan) -> list[str]:
    """Those of the tensors that are an output head which config.json ties to the embedding."""
    return [name for name in names if plan.structure.tied and name.endswith("lm_head.weight")]


def is_the_embedding(head: str, plan: Plan, folder: Path) -> bool:
    """Whether an output head that is stored although config.json ties it holds what the embedding does. Configs say so
    by default, of models that have a head of their own."""
    embedding = f"{plan.structure.stored_name(plan.structure.tied or '')}.weight"
    found = headers.digests(folder, {head, embedding}.__contains__)
    return len(found) < 2 or found[head] == found[embedding]


def where(source: dict[str, Tensor], made: dict[str, Tensor], structure: Structure, plan: Plan) -> dict[str, list[str]]:
    """The names of the model's tensors by where they are: Account's fields, or `lost`; `kept` by name and shape."""
    pruned = any(isinstance(modifier.body, Reap) for modifier in plan.recipe.modifiers)
    found: dict[str, list[str]] = {
        place: [] for place in ("kept", "quantized", "retyped", "not_loaded", "taken_apart", "dropped", "lost")
    }
    for name, tensor in source.items():
        saved = structure.renamed.get(name, name)
        layer, own = saved.removesuffix(".weight"), made.get(saved)
        if saved.endswith(".weight") and any(f"{layer}.{part}" in made for part in _QUANTIZED):
            place = "quantized"
        elif own is not None and own.shape == tensor.shape:
            place = "kept" if own.dtype == tensor.dtype else "retyped"
        elif name in structure.fused_experts:
            place = "taken_apart"
        elif pruned or tied_heads([name], plan):
            place = "dropped"
        else:
            place = "lost" if own is not None or name in structure.tensors else "not_loaded"
        found[place].append(name)
    return found


def _differing(source: Path, checkpoint: Path, names: Sequence[str], structure: Structure) -> list[str]:
    """Those of the tensors whose bytes are others in the checkpoint. Both are read, one tensor at a time."""
    saved = {structure.renamed.get(name, name): name for name in names}
    before = headers.digests(source, set(names).__contains__)
    after = headers.digests(checkpoint, saved.__contains__)
    return [name for own, name in saved.items() if after[own] != before[name]]


def _changes_weights(modifier: Modifier) -> bool:
    """Whether it changes what it does not quantize: by scales, by rotations, or by zeros."""
    return modifier.role != "quantizes" or modifier.body.rotates or isinstance(modifier.body, Awq)


def _ignore_under_both_names(checkpoint: Path, plan: Plan) -> None:
    """Has what was left alone in `ignore` under its name in the files, for vLLM, and in the model, for transformers.

    With one of them alone, the other takes an image-text model's tower for quantized.
    """
    left = {name: stored for name, stored in plan.structure.stored.items() if name not in plan.schemes}
    path = checkpoint / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    quantized = config.get("quantization_config")
    if not left or not quantized:
        return
    ignored = quantized.get("ignore") or []
    listed = set(ignored)  # tens of thousands, of a mixture of experts
    known = {name for pair in left.items() for name in pair if not listed.isdisjoint(pair)}
    if more := sorted(known - listed):
        quantized["ignore"] = [*ignored, *more]
        atomic.write_json(path, config)
