"""The recipe language: what to do to the weights, as data. Unknown keys are errors; nothing here imports torch."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from quantpress import files, located_yaml, shipped
from quantpress.schemes import SCHEMES

HINT = "correct the recipe; `quantpress recipes show gptq-w4a16` prints one that works"
RESERVED = ("baseline", "logs", "report.md")
SHIPPED_DATASET = "quantpress-chat"


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def _known_scheme(name: str) -> str:
    if name not in SCHEMES:
        raise ValueError(f"{name!r} is not a scheme; {located_yaml.nearest(name, SCHEMES)}")
    return name


def _clean_targets(names: list[str]) -> list[str]:
    for name in names:
        if not name.removeprefix("re:"):
            raise ValueError("an empty name matches nothing; name a layer, a class or re:PATTERN")
        try:
            re.compile(name.removeprefix("re:") if name.startswith("re:") else "")
        except (re.error, OverflowError, RecursionError) as error:
            raise ValueError(f"{name!r} is not a regular expression: {error}") from error
    return names


def _not_reserved(name: str) -> str:
    if name in RESERVED:
        raise ValueError(f"{name!r} is the name of a folder beside the artifacts; choose another")
    return name


SchemeName = Annotated[str, AfterValidator(_known_scheme)]
Names = Annotated[list[str], AfterValidator(_clean_targets)]
GroupSize = Literal["auto"] | Annotated[int, Field(ge=16, le=1024)]
Observer = Literal["minmax", "static_minmax", "memoryless_minmax", "mse", "memoryless_mse"]


class QuantArgs(Strict):
    """How weights or activations are quantized, in compressed-tensors' terms (QuantizationArgs)."""

    num_bits: Literal[2, 3, 4, 5, 6, 7, 8] = 8
    type: Literal["int", "float"] = "int"
    symmetric: bool = True
    strategy: Literal["tensor", "channel", "group", "token"]
    group_size: GroupSize | None = None
    dynamic: bool = False
    observer: Observer | None = None

    @model_validator(mode="after")
    def _group_size_belongs_to_groups(self) -> QuantArgs:
        if (self.strategy == "group") != (self.group_size is not None):
            raise ValueError("group_size goes with strategy group, and only with it")
        if self.strategy == "token" and not self.dynamic:
            raise ValueError("strategy token needs dynamic: true; there are no tokens to measure before serving")
        if self.type == "float" and self.num_bits not in (4, 8):
            raise ValueError(f"type float has 4 or 8 bits, not {self.num_bits}")
        return self


class Quantizes(Strict):
    """What every modifier that quantizes shares: a preset `scheme`, or explicit `weights` (and activations)."""

    scheme: SchemeName | None = None
    group_size: GroupSize | None = None
    weights: QuantArgs | None = None
    input_activations: QuantArgs | None = None
    targets: Names = Field(default=["Linear"], min_length=1)
    ignore: Names = ["lm_head"]

    @model_validator(mode="after")
    def _scheme_or_weights(self) -> Quantizes:
        if (self.scheme is None) == (self.weights is None):
            raise ValueError("give either scheme (a preset) or weights (explicit arguments)")
        if self.scheme and self.input_activations:
            raise ValueError("input_activations goes with explicit weights; a preset scheme has its own")
        if self.weights and (self.weights.strategy == "token" or self.weights.dynamic):
            raise ValueError("weights are fixed: strategy tensor, channel or group, and not dynamic")
        if self.input_activations and self.input_activations.strategy == "channel":
            raise ValueError("input_activations take strategy tensor (static) or token (dynamic), not channel")
        if self.group_size is not None and (self.scheme is None or not SCHEMES[self.scheme].free_group):
            raise ValueError(f"group_size cannot be chosen for {self.scheme or 'explicit weights (set it there)'}")
        return self

    @property
    def requested_group_size(self) -> Literal["auto"] | int | None:
        """The group size that the recipe asks for; None where the scheme has no groups to choose."""
        if self.weights:
            return self.weights.group_size
        return (self.group_size or "auto") if SCHEMES[self.scheme or ""].free_group else None

    @property
    def static_activations(self) -> bool:
        if self.weights:
            return self.input_activations is not None and not self.input_activations.dynamic
        return SCHEMES[self.scheme or ""].activations == "static"

    def with_group_size(self, size: int) -> Quantizes:
        if self.weights:
            return self.model_copy(update={"weights": self.weights.model_copy(update={"group_size": size})})
        return self.model_copy(update={"group_size": size})


class Rtn(Quantizes):
    """Round to nearest: plain quantization (llmcompressor's QuantizationModifier)."""


class Gptq(Quantizes):
    """GPTQ, arXiv 2210.17323 (llmcompressor's GPTQModifier)."""

    block_size: int = Field(default=128, ge=1)
    dampening_frac: float = Field(default=0.01, gt=0, le=1)
    actorder: Literal["static", "weight", "none"] = "static"


class Awq(Quantizes):
    """AWQ, arXiv 2306.00978: scales searched on activations (AWQModifier), then round to nearest."""

    n_grid: int = Field(default=20, ge=1, le=200)
    duo_scaling: bool | Literal["both"] = True


class SmoothQuant(Strict):
    """SmoothQuant, arXiv 2211.10438 (llmcompressor's SmoothQuantModifier): comes before the quantizing modifier."""

    smoothing_strength: float = Field(default=0.5, ge=0, le=1)
    ignore: Names | None = None


class Modifier(Strict):
    """One entry of `modifiers`: a mapping with one key, the modifier's name."""

    smoothquant: SmoothQuant | None = None
    gptq: Gptq | None = None
    awq: Awq | None = None
    rtn: Rtn | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Modifier:
        if len(self.model_fields_set) != 1:
            raise ValueError(f"one modifier per entry, found {', '.join(sorted(self.model_fields_set)) or 'none'}")
        if getattr(self, self.name) is None:
            raise ValueError(f"{self.name} has no body; write {self.name}: {{}} for its defaults")
        return self

    @property
    def name(self) -> str:
        return next(iter(self.model_fields_set))

    @property
    def body(self) -> Quantizes | SmoothQuant:
        body: Quantizes | SmoothQuant = getattr(self, self.name)
        return body


class Source(Strict):
    """Where documents come from, and their share of the calibration tokens among the entries of a `mixture`."""

    dataset: str = Field(min_length=1)
    subset: str | None = None
    split: str | None = None
    revision: str | None = None
    weight: float = Field(default=1, gt=0, le=1e9)


class Calibration(Strict):
    """The data that modifiers calibrate on: one `dataset`, or a `mixture` of several by weight.

    `samples` sequences of exactly `max_sequence_length` tokens (or as many as a budget of `tokens` fills), packed from
    whole documents in an order drawn with `seed`; the same sequences, in the same order, for every modifier.
    `batch_size` sequences go through at once.
    """

    dataset: str | None = Field(default=None, min_length=1)
    subset: str | None = None
    split: str | None = None
    revision: str | None = None
    mixture: list[Source] | None = Field(default=None, min_length=1)
    samples: int = Field(default=64, ge=1)
    tokens: int | None = Field(default=None, ge=1)
    max_sequence_length: int = Field(default=512, ge=16)
    seed: int = Field(default=42, ge=0, lt=2**63)
    batch_size: int = Field(default=8, ge=1)

    @model_validator(mode="after")
    def _one_way_to_say_it(self) -> Calibration:
        alone = [name for name in ("dataset", "subset", "split", "revision") if getattr(self, name) is not None]
        if self.mixture and alone:
            raise ValueError(f"{alone[0]} does not go with mixture; write it into an entry of the mixture")
        if self.tokens is None:
            return self
        if "samples" in self.model_fields_set:
            raise ValueError("give either samples (a number of sequences) or tokens (a budget)")
        if self.tokens < self.max_sequence_length:
            raise ValueError(f"{self.tokens} tokens do not fill one sequence of {self.max_sequence_length}")
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
    path = Path(os.path.expanduser(source.dataset))  # noqa: PTH111 -- Path.expanduser raises for an unknown ~user
    return source.model_copy(update={"dataset": str(path.resolve())}) if path.is_file() else source


class Targets(Strict):
    """The hardware that the recipe is meant for."""

    compute_capability: float | None = Field(default=None, ge=5, le=20)


class Recipe(Strict):
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$"), AfterValidator(_not_reserved)]
    description: str = Field(min_length=1)
    modifiers: list[Modifier] = Field(min_length=1)
    calibration: Calibration | None = None
    targets: Targets | None = None

    @model_validator(mode="after")
    def _order(self) -> Recipe:
        quantizes = [isinstance(modifier.body, Quantizes) for modifier in self.modifiers]
        if not any(quantizes):
            raise ValueError("no modifier quantizes, so the result would be a copy; add gptq, awq or rtn")
        for modifier in self.modifiers[quantizes.index(True) :]:
            if not isinstance(modifier.body, Quantizes):
                raise ValueError(f"{modifier.name} must come before the modifier that quantizes")
        if self.calibration and not self.needs_data:
            raise ValueError("calibration is given, but no modifier here uses data; remove it")
        return self

    @property
    def needs_data(self) -> bool:
        return any(
            modifier.name != "rtn" or (isinstance(modifier.body, Quantizes) and modifier.body.static_activations)
            for modifier in self.modifiers
        )

    def dump(self) -> dict[str, Any]:
        """The recipe as plain data that validates to the same recipe."""
        return self.model_dump(exclude_none=True)


def load(name: str, settings: Sequence[str] = ()) -> Recipe:
    """Reads and validates a recipe: a path or a shipped name; `settings` are `key.key=value` overrides.

    Overrides of `calibration` do not touch a recipe that uses no data, so that one command can run several recipes.
    Raises InputError with file, line, value and rule of every problem in the file.
    """
    path = shipped.find("recipes", name)
    document = located_yaml.load(path, files.read_input(path), HINT)
    of_data = [setting for setting in settings if setting.startswith("calibration.")]
    located_yaml.override(document, [setting for setting in settings if setting not in of_data])
    recipe = located_yaml.validate(document, Recipe, HINT)
    if of_data:
        _check_data_settings(path, of_data)
    if recipe.needs_data and of_data:
        _give_way(document.data.get("calibration"), of_data)
        located_yaml.override(document, of_data)
        recipe = located_yaml.validate(document, Recipe, HINT)
    if recipe.needs_data:
        recipe = recipe.model_copy(update={"calibration": (recipe.calibration or Calibration()).resolved()})
    return recipe


# An override replaces the other ways to say the same thing.
_REPLACES = {
    "tokens": ("samples",),
    "samples": ("tokens",),
    "dataset": ("mixture", "subset", "split", "revision"),
    "mixture": ("dataset", "subset", "split", "revision"),
}


def _give_way(calibration: Any, settings: Sequence[str]) -> None:
    named = {setting.partition("=")[0].split(".")[1] for setting in settings}
    for name in named & _REPLACES.keys() if isinstance(calibration, dict) else ():
        for other in set(_REPLACES[name]) - named:
            calibration.pop(other, None)


def _check_data_settings(path: Path, settings: Sequence[str]) -> None:
    """Raises InputError for overrides of `calibration` that no recipe would take, also where they have no effect."""
    document = located_yaml.Document(Path("--set"), {})
    located_yaml.override(document, [setting.removeprefix("calibration.") for setting in settings])
    located_yaml.validate(document, Calibration, "correct the --set option")
