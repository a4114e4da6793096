"""A recipe from its file: what it extends, what it overrides, and what `--set` says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from quantpress.errors import InputError
from quantpress.language import shipped
from quantpress.language.document import Document, load_yaml
from quantpress.language.overrides import merge, override, put_at
from quantpress.language.validation import validate
from quantpress.recipe import from_llmcompressor
from quantpress.recipe.modifiers import ROLES
from quantpress.recipe.recipe import Calibration, Recipe
from quantpress.runtime import atomic, console

HINT = "correct the recipe; `quantpress recipes show gptq-w4a16` prints one that works"

_DEEPEST = 8  # recipes that extend one another


def read(path: Path, above: tuple[Path, ...] = ()) -> Document:
    """The recipe in a file, of our kind or llmcompressor's, with what it extends filled in; not validated yet.

    Raises InputError for text that is no YAML, and for recipes that extend one another in a circle.
    """
    path_shown, resolved = path, path.resolve()
    if resolved in above or len(above) >= _DEEPEST:
        chain = " -> ".join(file.name for file in (*above, resolved))
        raise InputError(f"{path_shown}: recipes extend one another without end: {chain}", hint=HINT)
    document = load_yaml(path, atomic.read_input(path), HINT)
    if from_llmcompressor.is_llmcompressors(document.data):
        return from_llmcompressor.translated(document)
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
    merge(merged, document)
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
            put_at(merged, key.split("."), overrides.part((key,)), f"{overrides.mark((key,))}: {key!r}")
        except InputError as error:
            refused.append(error)
    if refused:
        raise InputError("\n       ".join(error.message for error in refused), hint=refused[0].hint)


def load_recipe(name: str, settings: Sequence[str] = ()) -> Recipe:
    """Reads and validates a recipe: a path or a shipped name; `settings` are `key.key=value` overrides.

    Overrides of `calibration` do not touch a recipe that uses no data, so that one command can run several recipes.
    Raises InputError with file, line, value and rule of every problem in the file.
    """
    path = shipped.find("recipes", name)
    document = read(path)
    of_data = [setting for setting in settings if setting.startswith("calibration.")]
    override(document, [setting for setting in settings if setting not in of_data])
    recipe = validate(document, Recipe, HINT, _early_problems)
    if of_data and recipe.needs_data:
        _give_way(document.data.get("calibration"), {setting.partition("=")[0].split(".")[1] for setting in of_data})
        override(document, of_data)
        recipe = validate(document, Recipe, HINT, _early_problems)
    elif of_data:
        _check_data_settings(path, of_data)
    for notice in document.notices:
        console.say(f"note: {path}: {notice}")
    if recipe.needs_data:
        recipe = recipe.model_copy(update={"calibration": (recipe.calibration or Calibration()).resolved()})
    return recipe


def load_recipes(names: Sequence[str], settings: Sequence[str] = ()) -> list[Recipe]:
    """Several recipes. Raises InputError also where two have one name: their artifacts would be one folder."""
    recipes = [load_recipe(name, settings) for name in names]
    given = [recipe.name for recipe in recipes]
    if len(set(given)) < len(given):
        raise InputError(f"two of the recipes have the same name: {', '.join(given)}", hint="rename one")
    return recipes


def _early_problems(data: Any) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Rules between fields and between modifiers, on data that may be wrong in any other way."""
    entries = data.get("modifiers")
    quantized = False
    for index, entry in enumerate(entries if isinstance(entries, list) else []):
        for name, body in entry.items() if isinstance(entry, dict) else ():
            if isinstance(body, dict) and {"scheme", "weights"} <= body.keys():
                message = "give either scheme (a preset) or weights (explicit arguments)"
                yield ("modifiers", index, name), f"modifiers.{index}.{name}: {message}"
            if quantized and ROLES.get(name) in ("prepares", "prunes"):
                yield ("modifiers", index), f"{name} must come before the modifier that quantizes"
            bare_awq = name == "awq" and not (isinstance(body, dict) and "scheme" in body)
            quantized |= ROLES.get(name) == "quantizes" and not bare_awq


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
    document = Document(Path("--set"), {})
    override(document, [setting.removeprefix("calibration.") for setting in settings])
    validate(document, Calibration, "correct the --set option")
