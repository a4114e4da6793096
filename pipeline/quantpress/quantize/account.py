"""Nothing lost: every tensor and every file of the model is in its checkpoint, or it is known why not."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Sequence
from pathlib import Path

from quantpress.errors import StageError
from quantpress.model import headers
from quantpress.model.dequantize import side_files
from quantpress.model.headers import Tensor
from quantpress.model.source import Model
from quantpress.model.structure import structure_of
from quantpress.plan.resolve import Plan
from quantpress.recipe.modifiers import Reap
from quantpress.runtime import atomic

INDEX = "model.safetensors.index.json"
NOT_LOADED = "model-not-loaded.safetensors"
_CODE = ".py"


def keep_what_is_not_loaded(source: Path, checkpoint: Path, names: Sequence[str]) -> None:
    """Copies tensors that transformers never loads (layers for speculative decoding) bit for bit into the checkpoint.

    They get a file of their own, are listed in the index, and left out of quantization in the config.
    """
    wanted = set(names)
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, tensor in headers.read_folder(source).items():
        if name in wanted:
            end = offset + tensor.nbytes
            header[name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [offset, end]}
            offset = end
    text = json.dumps(header).encode()
    with (checkpoint / NOT_LOADED).open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        for _, _, _, raw in headers.contents(source, wanted.__contains__):  # one at a time: they may be large
            stream.write(raw)
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
    sizes = (tensor.nbytes for file in headers.weight_files(checkpoint) for tensor in headers.read(file).values())
    new = headers.read(checkpoint / NOT_LOADED).values()
    index["metadata"]["total_size"] = sum(sizes) + sum(tensor.nbytes for tensor in new)
    atomic.write_json(path, index)


def _ignore_in_config(checkpoint: Path, names: Sequence[str]) -> None:
    path = checkpoint / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    modules = sorted({name.removesuffix(".weight") for name in names if name.endswith(".weight")})
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
        if (trust_remote_code or path.suffix != _CODE) and not (checkpoint / path.name).exists()
    ]
    for path in missing:
        shutil.copyfile(path, checkpoint / path.name)
    return [path.name for path in missing]


def complete(checkpoint: Path, model: Model, plan: Plan) -> None:
    """Makes the checkpoint whole: side files, and tensors that transformers never loads.

    Raises StageError if other tensors of the model are missing: neither kept, nor quantized, nor taken out by REAP.
    """
    keep_side_files(model.path, checkpoint, model.trust_remote_code)
    _ignore_under_both_names(checkpoint, plan)
    made = headers.read_folder(checkpoint)
    lost = _missing(headers.read_folder(model.path), made)
    if plan.structure.tied:
        lost = [name for name in lost if not name.endswith("lm_head.weight")]  # stored once, as the embedding
    if not lost or any(isinstance(modifier.body, Reap) for modifier in plan.recipe.modifiers):
        return
    structure = structure_of(model.path, model.config, model.trust_remote_code)
    lost = [name for name in lost if name not in structure.fused_experts]  # the checkpoint has them one by one
    lost = [name for name in lost if not _is_there(structure.renamed.get(name, name), made)]
    if loaded := [name for name in lost if name in structure.tensors]:
        raise StageError(
            f"{len(loaded)} tensors of the model are in no file of the checkpoint: {', '.join(loaded[:3])}",
            hint="report this with the model's config.json; such a checkpoint would serve something else",
        )
    if lost:
        keep_what_is_not_loaded(model.path, checkpoint, lost)


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


def _missing(source: dict[str, Tensor], made: dict[str, Tensor]) -> list[str]:
    """Tensors of the model that the checkpoint holds neither as they are nor quantized."""
    layers = {name.rpartition(".")[0] for name in made}
    return [name for name in source if name not in made and name.removesuffix(".weight") not in layers]


def _is_there(name: str, made: dict[str, Tensor]) -> bool:
    """Whether the checkpoint holds a tensor as it is, or the layer that it was quantized to."""
    return name in made or f"{name}_packed" in made or f"{name}_scale" in made
