"""The recipe language: what to do to the weights, as data. Unknown keys are errors; nothing here imports torch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, field_validator, model_validator

from quantpress.language.validation import AtError, Line, Strict
from quantpress.recipe.modifiers import Awq, Modifier, Quantizes

RESERVED = ("baseline", "dummy", "logs", "online", "report.md", "report.html", "report.json")
SHIPPED_DATASET = "quantpress-chat"
OWN_DATASET = "self"  # chats that the model itself writes with vLLM

DATASET = (
    f"`{SHIPPED_DATASET}`: shipped chats that a model of 135M parameters wrote, poor for one of more than 1B; "
    f"`{OWN_DATASET}`: the model writes chats with vLLM first; a .jsonl or .parquet file; or a data set of the hub."
)
REVISION = f"A commit of a data set of the hub; of `{OWN_DATASET}` what names the chats that were written."


def _not_reserved(name: str) -> str:
    if name in RESERVED:
        raise ValueError(f"{name!r} is the name of a folder beside the artifacts; choose another")
    return name


ArtifactName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$"), AfterValidator(_not_reserved)]


class Source(Strict):
    """Where documents come from, and their share of the calibration tokens among the entries of a `mixture`."""

    dataset: str = Field(min_length=1, description=DATASET)
    subset: str | None = None
    split: str | None = None
    revision: str | None = Field(default=None, description=REVISION)
    weight: float = Field(default=1, gt=0, le=1e9)


class Calibration(Strict):
    """The data that modifiers calibrate on: one `dataset`, or a `mixture` of several by weight.

    `samples` sequences of exactly `max_sequence_length` tokens (or as many as a budget of `tokens` fills), packed from
    whole documents in an order drawn with `seed`; the same sequences, in the same order, for every modifier. A `.jsonl`
    whose messages name images gives a conversation a sequence, whole, of at most `max_sequence_length` tokens.
    `batch_size` sequences go through at once.
    """

    dataset: str | None = Field(default=None, min_length=1, description=DATASET)
    subset: str | None = None
    split: str | None = None
    revision: str | None = Field(default=None, description=REVISION)
    mixture: list[Source] | None = Field(default=None, min_length=1)
    samples: int = Field(default=64, ge=1)
    tokens: int | None = Field(default=None, ge=1)
    max_sequence_length: int = Field(default=512, ge=16)
    seed: int = Field(default=42, ge=0, lt=2**63)
    batch_size: int = Field(default=8, ge=1)
    all_experts: bool | None = Field(
        default=None,
        description="Of a mixture of experts: whether each is calibrated on all tokens, or on those that its router "
        "sends it; llmcompressor's own: true.",
    )
    processes: int | None = Field(
        default=None,
        ge=2,
        le=64,
        description="So many processes, each with a GPU of its own, share the samples. Sums are then taken in another "
        "order, so this decides bits.",
    )

    @model_validator(mode="after")
    def _one_way_to_say_it(self) -> Calibration:
        alone = [name for name in ("dataset", "subset", "split", "revision") if getattr(self, name) is not None]
        problems = []
        if self.mixture and alone:
            problems.append(f"{alone[0]} does not go with mixture; write it into an entry of the mixture")
        if self.tokens is not None and "samples" in self.model_fields_set:
            problems.append("give either samples (a number of sequences) or tokens (a budget)")
        if self.tokens is not None and self.tokens < self.max_sequence_length:
            problems.append(f"{self.tokens} tokens do not fill one sequence of {self.max_sequence_length}")
        samples = self.tokens // self.max_sequence_length if self.tokens else self.samples
        if self.processes and samples < self.processes:
            problems.append(f"{samples} samples cannot be shared out among {self.processes} processes")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def sources(self) -> list[Source]:
        if self.mixture:
            return self.mixture
        named = {name: getattr(self, name) for name in ("subset", "split", "revision")}
        return [Source(dataset=self.dataset or SHIPPED_DATASET, **named)]

    def resolved(self) -> Calibration:
        """The same with every default explicit, a token budget as a number of samples, and local files by their path.

        A whole path, so that the recipe means the same from every folder.
        """
        samples = self.tokens // self.max_sequence_length if self.tokens else self.samples
        filled: dict[str, Any] = {"samples": samples, "tokens": None}
        return self.model_copy(update=filled).with_sources([_located(source) for source in self.sources])

    def with_sources(self, sources: list[Source]) -> Calibration:
        if self.mixture:
            return self.model_copy(update={"mixture": sources})
        return self.model_copy(update=sources[0].model_dump(exclude={"weight"}))


def _located(source: Source) -> Source:
    if source.dataset in (SHIPPED_DATASET, OWN_DATASET):
        return source
    path = Path(os.path.expanduser(source.dataset))  # noqa: PTH111 -- Path.expanduser raises for an unknown ~user
    return source.model_copy(update={"dataset": str(path.resolve())}) if path.is_file() else source


class Targets(Strict):
    """The hardware that the recipe is meant for."""

    compute_capability: float | None = Field(default=None, ge=5, le=20)


class Recipe(Strict):
    """What to do to a model's weights."""

    name: ArtifactName = Field(description="Names the artifact's folder: letters a-z, digits, `.`, `_`, `-`.")
    description: Line = Field(description="One line for lists and reports.")
    modifiers: list[Modifier] = Field(
        min_length=1, description="What to do, in order; each entry has one key, the modifier's name."
    )
    calibration: Calibration | None = Field(
        default=None, description="The data that modifiers calibrate on; defaults apply where data is needed."
    )
    targets: Targets | None = Field(default=None, description="The hardware that the recipe is meant for.")

    @field_validator("modifiers")
    @classmethod
    def _order(cls, modifiers: list[Modifier]) -> list[Modifier]:
        quantizing = [index for index, modifier in enumerate(modifiers) if modifier.role == "quantizes"]
        if not quantizing and not any(modifier.role == "prunes" for modifier in modifiers):
            raise ValueError("no modifier quantizes, so the result would be a copy; add gptq, awq or rtn")
        for index, modifier in enumerate(modifiers):
            # awq without a scheme may stand between two that quantize: it prepares for the second.
            bare = isinstance(modifier.body, Awq) and modifier.role == "prepares"
            late = modifier.role == "prepares" and index > max(quantizing, default=-1)
            if late or (modifier.role != "quantizes" and not bare and quantizing and index > quantizing[0]):
                what = "awq without a scheme" if isinstance(modifier.body, Awq) else modifier.name
                raise AtError(index, f"{what} must come before the modifier that quantizes")
        caches = [i for i, m in enumerate(modifiers) if isinstance(m.body, Quantizes) and m.body.kv_cache]
        if len(caches) > 1:
            raise AtError(caches[1], "kv_cache is given twice; one modifier is enough")
        return modifiers

    @model_validator(mode="after")
    def _data_is_used(self) -> Recipe:
        if self.calibration and not self.needs_data:
            raise AtError("calibration", "calibration is given, but no modifier here uses data; remove it")
        return self

    @model_validator(mode="after")
    def _data_can_be_shared(self) -> Recipe:
        alone = [one.name for one in self.modifiers if one.body.needs_data and not one.body.SHARES_DATA]
        if alone and self.calibration and self.calibration.processes:
            raise AtError(
                "calibration",
                f"processes do not go with {alone[0]}: in llmcompressor, rtn, gptq, awq and smoothquant alone put "
                "together what several processes saw",
            )
        return self

    @property
    def needs_data(self) -> bool:
        return any(modifier.body.needs_data for modifier in self.modifiers)

    def dump(self) -> dict[str, Any]:
        """The recipe as plain data that validates to the same recipe."""
        return self.model_dump(exclude_none=True)
