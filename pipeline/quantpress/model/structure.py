"""What a model is made of, asked of the libraries that will load it: once for each model, the answer kept.

Names of tensors tell neither a vision tower from a language model, nor a router from a projection, nor what
transformers renames, joins or never loads; nor what AWQ and SmoothQuant would rescale.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from quantpress.model.config import Config, dtype_of
from quantpress.model.headers import Tensor
from quantpress.runtime import digests, environment
from quantpress.runtime.cache import cache_folder
from quantpress.runtime.records import Record
from quantpress.runtime.worker import Job, Result, Worker

Algorithm = Literal["awq", "smoothquant"]


class Mapping(Record):
    """Patterns of one layer to rescale, and of those that take what it gives."""

    smooth_layer: str
    balance_layers: list[str]
    activation_hook_target: str | None = None


class Asked(Record):
    """What to resolve: these mappings, or (None) those that llmcompressor has for the model's class."""

    algorithm: Algorithm
    mappings: list[Mapping] | None = None


class Rescaled(Record):
    """One layer that is rescaled, and the layers that take what it gives, by module name."""

    smooth: str
    balance: list[str]


class Rescalings(Record):
    """What mappings resolve to in this model, by llmcompressor's own code.

    `refused` is why it would stop, else None. `within` are its own mappings held to the language model, where it would
    stop at a tower beside it; a recipe has to give these.
    """

    asked: Asked
    found: list[Rescaled] = Field(default_factory=list)
    refused: str | None = None
    within: list[Mapping] | None = None


class StructureJob(Job):
    """The folder of the model's config.json, and of its code if `trust_remote_code` lets that run; the `tensors` of its
    files, wherever these lie: none where they are not known. `rescalings` are asked beside llmcompressor's own.
    """

    folder: str
    tensors: dict[str, Tensor] = Field(default_factory=dict)
    trust_remote_code: bool = False
    rescalings: list[Asked] = Field(default_factory=list)


class Linear(Record):
    """A Linear layer or an embedding: its weight's shape (of an embedding, a row for each token), and the name of its
    weight in the files, without `.weight`.

    An expert that the files keep in a tensor of three dimensions has the name that a checkpoint gives it.
    """

    outputs: int
    inputs: int
    stored: str


class Structure(Result):
    """The model in the class that holds all of it, with experts made Linear as calibration makes them.

    `linears` and `embeddings` by module name; `others` the class of each module with weights that is neither;
    `containers` that of each module without weights of its own; `special` that of a layer or embedding whose class is
    derived from Linear or Embedding; `bases` the names of what each class is derived from, itself among them. `tied` is
    the embedding that lm_head shares its weight with. Of the files: `tensors` are the shapes of all that the class
    loads, `not_loaded` what it does not, `renamed` those that it saves under another name, `fused_experts` those that
    hold several experts at once, `routers` those that decide among them. `left_alone` says of patterns for `ignore`
    why the layers that they match are best kept in 16 bits. `linked_otherwise` are the layers, by their names in the
    files, that llmcompressor has share a scale (NVFP4's) with other layers in a model than in its files.
    """

    model_class: str
    linears: dict[str, Linear]
    embeddings: dict[str, Linear] = Field(default_factory=dict)
    others: dict[str, str]
    containers: dict[str, str] = Field(default_factory=dict)
    special: dict[str, str] = Field(default_factory=dict)
    bases: dict[str, list[str]] = Field(default_factory=dict)
    routers: list[str] = Field(default_factory=list)
    tied: str | None
    tensors: dict[str, list[int]]
    not_loaded: list[str] = Field(default_factory=list)
    renamed: dict[str, str] = Field(default_factory=dict)
    fused_experts: list[str]
    left_alone: dict[str, str]
    rescalings: list[Rescalings] = Field(default_factory=list)
    linked_otherwise: list[str] = Field(default_factory=list)


STRUCTURE = Worker("quantpress.model.structure_worker", StructureJob, Structure)
_LIBRARIES = ("torch", "transformers", "llmcompressor", "compressed-tensors")
_ANSWER = 6  # raise this when the worker answers otherwise


def structure_of(
    folder: Path,
    config: Config,
    files: dict[str, Tensor],
    trust_remote_code: bool = False,
    rescalings: Sequence[Asked] = (),
) -> Structure:
    """The structure of the model in this folder, with these tensors in its files, which may still be on the hub: none
    where a config.json is all that is known. Takes seconds the first time.

    Raises InputError for a model that transformers does not know, cannot build, or whose weights are not what its
    config describes; what Worker.run raises otherwise.
    """
    code = digests.sha256_files(sorted(folder.glob("*.py"))) if trust_remote_code else {}
    own = [one for one in rescalings if one.mappings is not None]
    job = StructureJob(folder=str(folder.resolve()), tensors=files, trust_remote_code=trust_remote_code, rescalings=own)
    # Not the job's own JSON, which takes half a second for the tensors of a large mixture of experts.
    tensors = sorted((name, tensor.dtype, tensor.shape) for name, tensor in files.items())
    known = [config, sorted(code.values()), environment.versions(_LIBRARIES), trust_remote_code, _ANSWER]
    digest = digests.sha256_json([*known, tensors, [one.dump() for one in own]])
    kept = cache_folder() / "structures" / f"{digest[:16]}.json"
    return STRUCTURE.answer(kept, job, f"asking transformers what a {config.get('model_type')} is made of")


def described_tensors(config: Config, structure: Structure) -> dict[str, Tensor]:
    """The tensors that the files of a model with this config will hold, by name."""
    name, size = _DTYPES[dtype_of(config)]
    return {tensor: Tensor(name, tuple(shape), size * math.prod(shape)) for tensor, shape in structure.tensors.items()}


_DTYPES = {"float32": ("F32", 4), "float16": ("F16", 2), "bfloat16": ("BF16", 2)}
