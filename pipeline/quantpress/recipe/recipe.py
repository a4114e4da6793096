"""The recipe language: what to do to the weights, as data. Unknown keys are errors; nothing here imports torch."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, field_validator, model_validator

from quantpress.errors import InputError, printable
from quantpress.language import located_yaml, shipped
from quantpress.language.located_yaml import Document
from quantpress.recipe import from_llmcompressor as legacy
from quantpress.recipe.modifiers import PRUNERS, TRANSFORMS, Awq, Modifier, Quantizes, Strict
from quantpress.runtime import files

HINT = "correct the recipe; `quantpress recipes show gptq-w4a16` prints one that works"
RESERVED = ("baseline", "logs", "report.md", "report.html", "report.json")
SHIPPED_DATASET = "quantpress-chat"
_DEEPEST = 8  # recipes that extend one another


def _not_reserved(name: str) -> str:
    if name in RESERVED:
        raise ValueError(f"{name!r} is the name of a folder beside the artifacts; choose another")
    return name


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
        problems = []
        if self.mixture and alone:
            problems.append(f"{alone[0]} does not go with mixture; write it into an entry of the mixture")
        if self.tokens is not None and "samples" in self.model_fields_set:
            problems.append("give either samples (a number of sequences) or tokens (a budget)")
        if self.tokens is not None and self.tokens < self.max_sequence_length:
            problems.append(f"{self.tokens} tokens do not fill one sequence of {self.max_sequence_length}")
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
    path = Path(os.path.expanduser(source.dataset))  # noqa: PTH111 -- Path.expanduser raises for an unknown ~user
    return source.model_copy(update={"dataset": str(path.resolve())}) if path.is_file() else source


class Targets(Strict):
    """The hardware that the recipe is meant for."""

    compute_capability: float | None = Field(default=None, ge=5, le=20)


class Recipe(Strict):
    """What to do to a model's weights."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$"), AfterValidator(_not_reserved)] = Field(
        description="Names the artifact's folder: letters a-z, digits, `.`, `_`, `-`."
    )
    description: str = Field(min_length=1, description="One line for lists and reports.")
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
        quantizing = [index for index, modifier in enumerate(modifiers) if modifier.quantizes]
        if not quantizing and not any(modifier.name in PRUNERS for modifier in modifiers):
            raise ValueError("no modifier quantizes, so the result would be a copy; add gptq, awq or rtn")
        for index, modifier in enumerate(modifiers):
            prepares = not modifier.quantizes and modifier.name not in PRUNERS
            late = prepares and index > max(quantizing, default=-1)
            if late or (modifier.name in (*TRANSFORMS, *PRUNERS) and quantizing and index > quantizing[0]):
                what = "awq without a scheme" if isinstance(modifier.body, Awq) else modifier.name
                raise located_yaml.AtError(index, f"{what} must come before the modifier that quantizes")
        caches = [i for i, m in enumerate(modifiers) if isinstance(m.body, Quantizes) and m.body.kv_cache]
        if len(caches) > 1:
            raise located_yaml.AtError(caches[1], "kv_cache is given twice; one modifier is enough")
        return modifiers

    @model_validator(mode="after")
    def _data_is_used(self) -> Recipe:
        if self.calibration and not self.needs_data:
            raise located_yaml.AtError("calibration", "calibration is given, but no modifier here uses data; remove it")
        return self

    @property
    def needs_data(self) -> bool:
        return any(modifier.needs_data for modifier in self.modifiers)

    def dump(self) -> dict[str, Any]:
        """The recipe as plain data that validates to the same recipe."""
        return self.model_dump(exclude_none=True)


def read(path: Path, above: tuple[Path, ...] = ()) -> Document:
    """The recipe in a file, of our kind or llmcompressor's, with what it extends filled in; not validated yet.

    Raises InputError for text that is no YAML, and for recipes that extend one another in a circle.
    """
    path_shown, resolved = path, path.resolve()
    if resolved in above or len(above) >= _DEEPEST:
        chain = " -> ".join(file.name for file in (*above, resolved))
        raise InputError(f"{path_shown}: recipes extend one another without end: {chain}", hint=HINT)
    document = located_yaml.load(path, files.read_input(path), HINT)
    if legacy.is_llmcompressors(document.data):
        return legacy.translated(document)
    if not isinstance(document.data, dict) or not {"extends", "overrides"} & document.data.keys():
        return document
    return _extended(document, path, (*above, resolved))


def _extended(document: Document, path: Path, above: tuple[Path, ...]) -> Document:
    overrides = document.part(("overrides",)) if "overrides" in document.data else None
    base, _ = (document.data.pop(key, None) for key in ("extends", "overrides"))
    if not isinstance(base, str):
        document.problem(("extends",), "overrides change a recipe that this one extends; name it with `extends: NAME`")
        document.raise_problems(HINT)
    if "name" not in document.data:
        document.problem(("extends",), "a recipe that extends another needs a `name` of its own")
    local = path.parent / base
    merged = read(local if "/" in base or local.suffix in (".yaml", ".yml") else shipped.find("recipes", base), above)
    if not isinstance(merged.data, dict):
        merged.problem((), f"is no recipe to extend: found {type(merged.data).__name__}, not a mapping")
        merged.raise_problems(HINT)
    merged.source = document.source
    if isinstance(own := document.data.get("calibration"), dict):
        _give_way(merged.data.get("calibration"), {str(key) for key in own})
    located_yaml.merge(merged, document)
    if overrides is not None:
        _apply(overrides, merged)
    return merged


def _apply(overrides: Document, merged: Document) -> None:
    if not isinstance(overrides.data, dict):
        overrides.problem((), "overrides is a mapping such as {modifiers.0.gptq.block_size: 64}")
        overrides.raise_problems(HINT)
    refused = []
    for key in overrides.data:
        try:
            located_yaml.put_at(merged, key.split("."), overrides.part((key,)), f"{overrides.mark((key,))}: {key!r}")
        except InputError as error:
            refused.append(error)
    if refused:
        raise InputError("\n       ".join(error.message for error in refused), hint=refused[0].hint)


def load(name: str, settings: Sequence[str] = ()) -> Recipe:
    """Reads and validates a recipe: a path or a shipped name; `settings` are `key.key=value` overrides.

    Overrides of `calibration` do not touch a recipe that uses no data, so that one command can run several recipes.
    Raises InputError with file, line, value and rule of every problem in the file.
    """
    path = shipped.find("recipes", name)
    document = read(path)
    of_data = [setting for setting in settings if setting.startswith("calibration.")]
    located_yaml.override(document, [setting for setting in settings if setting not in of_data])
    recipe = located_yaml.validate(document, Recipe, HINT, _early_problems)
    if of_data:
        _check_data_settings(path, of_data)
    if recipe.needs_data and of_data:
        _give_way(document.data.get("calibration"), {setting.partition("=")[0].split(".")[1] for setting in of_data})
        located_yaml.override(document, of_data)
        recipe = located_yaml.validate(document, Recipe, HINT, _early_problems)
    for notice in document.notices:
        print(printable(f"note: {path}: {notice}"), file=sys.stderr)
    if recipe.needs_data:
        recipe = recipe.model_copy(update={"calibration": (recipe.calibration or Calibration()).resolved()})
    return recipe


def _early_problems(data: Any) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Rules between fields and between modifiers, on data that may be wrong in any other way."""
    entries = data.get("modifiers")
    quantized = False
    for index, entry in enumerate(entries if isinstance(entries, list) else []):
        for name, body in entry.items() if isinstance(entry, dict) else ():
            if isinstance(body, dict) and {"scheme", "weights"} <= body.keys():
                message = "give either scheme (a preset) or weights (explicit arguments)"
                yield ("modifiers", index, name), f"modifiers.{index}.{name}: {message}"
            if quantized and name in (*TRANSFORMS, *PRUNERS):
                yield ("modifiers", index), f"{name} must come before the modifier that quantizes"
            quantized |= name in _QUANTIZING or (name == "awq" and isinstance(body, dict) and "scheme" in body)


_QUANTIZING = ("gptq", "rtn", "autoround")

# A setting, or a recipe that extends another, replaces the other ways to say the same thing.
_REPLACES = {
    "tokens": ("samples",),
    "samples": ("tokens",),
    "dataset": ("mixture", "subset", "split", "revision"),
    "mixture": ("dataset", "subset", "split", "revision"),
}


def _give_way(calibration: Any, named: set[str]) -> None:
    for name in named & _REPLACES.keys() if isinstance(calibration, dict) else ():
        for other in set(_REPLACES[name]) - named:
            calibration.pop(other, None)


def _check_data_settings(path: Path, settings: Sequence[str]) -> None:
    """Raises InputError for overrides of `calibration` that no recipe would take, also where they have no effect."""
    document = located_yaml.Document(Path("--set"), {})
    located_yaml.override(document, [setting.removeprefix("calibration.") for setting in settings])
    located_yaml.validate(document, Calibration, "correct the --set option")
