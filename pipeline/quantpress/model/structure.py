"""What a model is made of, asked of the libraries that will load it: once for each config, the answer kept.

Tensor names and shapes alone tell what a Llama is made of (model/layers.py). They do not tell a vision tower from a
language model, a router from a projection, or an expert in a three-dimensional tensor from a convolution.
"""

from __future__ import annotations

from pathlib import Path

from quantpress.model.config import Config
from quantpress.runtime import digests, environment
from quantpress.runtime.cache import cache_folder
from quantpress.runtime.records import Record
from quantpress.runtime.worker import Job, Result, Worker


class StructureJob(Job):
    """The model's folder: config.json, and its code if `trust_remote_code` lets it run."""

    folder: str
    trust_remote_code: bool = False


class Linear(Record):
    """A Linear layer: its weight's shape, and the name of its weight in the files, without `.weight`.

    An expert that the files keep in a tensor of three dimensions has the name that a checkpoint gives it.
    """

    outputs: int
    inputs: int
    stored: str


class Structure(Result):
    """The model in the class that holds all of it, with experts made Linear as calibration makes them.

    `linears` by module name; `others` are the modules with weights that are not Linear; `tied` is the embedding that
    lm_head shares its weight with; `fused_experts` are the tensors of the files that hold several experts at once;
    `loaded` are all tensors that the class takes from the files; `left_alone` says of patterns for `ignore` why the
    layers that they match are best kept in 16 bits.
    """

    model_class: str
    linears: dict[str, Linear]
    others: list[str]
    tied: str | None
    fused_experts: list[str]
    loaded: list[str]
    left_alone: dict[str, str]


STRUCTURE = Worker("quantpress.model.structure_worker", StructureJob, Structure)
_LIBRARIES = ("torch", "transformers", "llmcompressor", "compressed-tensors")


def structure_of(folder: Path, config: Config, trust_remote_code: bool = False) -> Structure:
    """The structure of the model in this folder, of which a config.json is enough. Takes seconds the first time.

    Raises InputError for a model that transformers does not know or cannot build, what Worker.run raises otherwise.
    """
    code = digests.sha256_files(sorted(folder.glob("*.py"))) if trust_remote_code else {}
    known = [config, sorted(code.values()), environment.versions(_LIBRARIES), trust_remote_code, _ANSWER]
    kept = cache_folder() / "structures" / f"{digests.sha256_json(known)[:16]}.json"
    job = StructureJob(folder=str(folder.resolve()), trust_remote_code=trust_remote_code)
    return STRUCTURE.answer(kept, job, f"asking transformers what a {config.get('model_type')} is made of")


_ANSWER = 2  # raise this when the worker answers otherwise
