"""The workers of this room: what each is asked and what it answers. Their own modules load the heavy libraries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, field_serializer

from quantpress.artifact.manifest import Calibrated, CalibrationImages, Inputs
from quantpress.model.source import Model
from quantpress.plan.arithmetic import ComputeDtype
from quantpress.plan.resolve import Plan
from quantpress.recipe.recipe import Calibration, Recipe, Source
from quantpress.runtime.records import Record
from quantpress.runtime.worker import Job, Result, Worker


class RecipeJob(Job):
    """A resolved recipe to apply to the model in the folder `model`; what comes of it goes into the folder `output`."""

    recipe: Recipe
    model: Path
    output: Path
    trust_remote_code: bool

    @field_serializer("recipe")
    def _as_people_write_it(self, recipe: Recipe) -> dict[str, Any]:
        """Without nulls: to some fields None is not what it is to leave them out."""
        return recipe.dump()


def recipe_job(plan: Plan, model: Model, output: Path) -> RecipeJob:
    """What every worker that applies a plan's recipe must know."""
    return RecipeJob(
        recipe=plan.recipe, model=model.path, output=output.resolve(), trust_remote_code=model.trust_remote_code
    )


class Keep(Record):
    """The folder in which finished blocks are kept, and the `inputs` that they come from, without the model's digests:
    the worker reads those meanwhile."""

    folder: Path
    inputs: Inputs


class OneshotJob(Job):
    """What to quantize: the names of the `layers`, with `largest_input`, the input features of the widest one.

    `deciding_files` are hashed meanwhile and remembered in the file `digest_cache`; None where nobody asks for them.
    Without `keep` nothing is kept of a killed run. With `offload`, a folder for what changes, the weights stay on the
    disk.
    """

    common: RecipeJob
    layers: list[str] = Field(default_factory=list)
    largest_input: int
    compute_dtype: ComputeDtype
    deciding_files: list[Path] = Field(default_factory=list)
    digest_cache: Path | None = None
    keep: Keep | None = None
    offload: Path | None = None


class OneshotResult(Result):
    """What the manifest says of it: llmcompressor's modifiers in their order, the data, what is wrong with the data,
    and torch's threads. `seconds_before` were spent on kept blocks by a run that was killed."""

    modifiers: list[str]
    calibration: Calibrated | None
    warnings: list[str]
    threads: int
    seconds_before: float = 0.0


class StreamJob(Job):
    """What to quantize piece by piece, in at most so many `processes`: the `layers` by module name, with their names in
    the files where those are others (`stored`). Tensors in `left_out` are not to be written.

    `deciding_files` and `digest_cache` are those of OneshotJob.
    """

    common: RecipeJob
    layers: list[str]
    stored: dict[str, str] = Field(default_factory=dict)
    left_out: list[str] = Field(default_factory=list)
    processes: int = 1
    deciding_files: list[Path] = Field(default_factory=list)
    digest_cache: Path | None = None


class DistanceJob(Job):
    """Two checkpoint folders that hold the same tensors."""

    one: Path
    other: Path


class Distance(Record):
    """Relative RMS difference of two weights after decompression, and the bound that it is held to."""

    distance: float
    bound: float


class DistanceResult(Result):
    """By tensor (`<module>.weight`, `<module>.bias`)."""

    tensors: dict[str, Distance]


class DocumentsJob(Job):
    """Documents of a hub data set to write into the file `output`, in the order of `seed`, until they hold `tokens`
    tokens by the tokenizer of `model`."""

    source: Source
    seed: int
    tokens: int
    model: Path
    trust_remote_code: bool
    output: Path


class DocumentsResult(Result):
    """How many were written, and their tokens."""

    documents: int
    tokens: int


class ChatsJob(Job):
    """Local files of calibration data, whose conversations the chat template of `model` is tried on."""

    files: list[Path]
    model: Path
    trust_remote_code: bool


class ChatsResult(Result):
    """How many conversations were tried."""

    conversations: int


class ImagesJob(Job):
    """Calibration data, of which some conversations name images, to put through the processor of `model`.

    The template is tried on all conversations of the files `with_images`; `where` the first image is named.
    """

    calibration: Calibration
    with_images: list[Path]
    where: str
    model: Path
    trust_remote_code: bool


class ImagesResult(Result):
    """What of them are images, and the tokens of all."""

    tokens: int
    images: CalibrationImages


# Quantizes; writes the checkpoint.
ONESHOT = Worker("quantpress.quantize.oneshot_worker", OneshotJob, OneshotResult)
# Does the same piece by piece, without the model in memory.
STREAM = Worker("quantpress.quantize.stream_worker", StreamJob, OneshotResult)
# Writes the config.json alone that the checkpoint would have.
SHAPES = Worker("quantpress.quantize.shapes_worker", RecipeJob, Result)
# Compares two checkpoints.
DISTANCE = Worker("quantpress.quantize.distance_worker", DistanceJob, DistanceResult)
# Fetches documents for a bundle.
DOCUMENTS = Worker("quantpress.quantize.documents_worker", DocumentsJob, DocumentsResult)
# Tries the chat template on all conversations.
CHATS = Worker("quantpress.quantize.chats_worker", ChatsJob, ChatsResult)
# Puts the conversations with images through the model's processor.
IMAGES = Worker("quantpress.quantize.images_worker", ImagesJob, ImagesResult)
