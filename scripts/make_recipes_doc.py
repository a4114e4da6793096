"""Fills the generated parts of docs/recipes.md from the schema, the table of hardware and the shipped recipes.

python scripts/make_recipes_doc.py            # writes
python scripts/make_recipes_doc.py --check    # exit code 1 if it is not up to date
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from quantpress import hardware, modifiers, recipe, shipped
from quantpress.modifiers import Modifier, Quantizes, SchemeArgs
from quantpress.plan import scheme_of
from quantpress.recipe import Recipe
from quantpress.schemes import SCHEMES

DOCUMENT = Path(__file__).parents[1] / "docs" / "recipes.md"
_PART = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines) + "\n"


def fields(model: type[BaseModel], without: type[BaseModel] | None = None) -> str:
    skipped = set(without.model_fields) if without else set()
    properties = model.model_json_schema()["properties"]
    names = [name for name in model.model_fields if name not in skipped]
    rows = [[f"`{name}`", _type(properties[name]), _default(model, name), _about(model, name)] for name in names]
    return table(["field", "values", "default", "meaning"], rows)


def _type(schema: dict[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_type(part) for part in schema["anyOf"] if part.get("type") != "null"))
    if "enum" in schema or "const" in schema:
        values = schema.get("enum") or [schema["const"]]
        return "a scheme" if len(values) > 12 else ", ".join(f"`{value}`" for value in values)
    if "$ref" in schema:
        return schema["$ref"].rpartition("/")[2]
    if schema.get("type") == "array":
        return f"list of {_type(schema['items'])}"
    if schema.get("type") == "object":
        return "mapping"
    limits = [
        f"{sign} {schema[key]}"
        for key, sign in (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))
        if key in schema
    ]
    kind = {"string": "text", "integer": "integer", "number": "number", "boolean": "true, false"}[schema["type"]]
    return " ".join([kind, *limits])


def _default(model: type[BaseModel], name: str) -> str:
    info = model.model_fields[name]
    if info.is_required():
        return "required"
    return "" if info.default is None else f"`{str(info.default).replace(chr(39), '')}`"


def _about(model: type[BaseModel], name: str) -> str:
    return model.model_fields[name].description or ""


def _modifier(name: str) -> str:
    model = modifiers_by_name()[name]
    about = " ".join((model.__doc__ or "").split())
    own = [field for field in model.model_fields if field not in Quantizes.model_fields]
    shared = issubclass(model, Quantizes)
    text = f"### `{name}`\n\n{about}{' Takes what every modifier that quantizes takes.' if shared else ''}\n\n"
    return text + (fields(model, Quantizes if shared else None) + "\n" if own else "")


def modifiers_by_name() -> dict[str, type[BaseModel]]:
    classes = (
        modifiers.SmoothQuant,
        modifiers.SpinQuant,
        modifiers.Quip,
        modifiers.SparseGpt,
        modifiers.Wanda,
        modifiers.Reap,
        modifiers.Gptq,
        modifiers.Awq,
        modifiers.AutoRound,
        modifiers.Rtn,
    )
    return dict(zip(Modifier.model_fields, classes, strict=True))


def _shipped() -> str:
    rows = []
    for name in shipped.names("recipes"):
        loaded = recipe.load(name)
        steps = ", ".join(modifier.name for modifier in loaded.modifiers)
        data = "yes" if loaded.needs_data else "none"
        rows.append([f"`{name}`", loaded.description, steps, data, ", ".join(_targets(loaded)) or "-"])
    return table(["recipe", "what for", "modifiers", "data", "served as it says on"], rows)


def _targets(loaded: Recipe) -> list[str]:
    """Where everything runs as the recipe says; group sizes do not matter here."""
    kinds: set[str] = set()
    for modifier in loaded.modifiers:
        if isinstance(modifier.body, Quantizes):
            kinds |= {hardware.kind_of(scheme_of(group, None)) for group in modifier.body.all_groups}
            kinds |= {hardware.KV_CACHE} if modifier.body.kv_cache else set()
    columns = enumerate(hardware.TARGETS)
    return [name for column, name in columns if all(hardware.TABLE[kind][column].support == "full" for kind in kinds)]


def _hardware() -> str:
    words = {"full": "", "fallback": "*fallback:* ", "no": "**no:** "}
    rows = [
        [kind, *(f"{words[cell.support]}{cell.kernel}{f' ({cell.needs})' if cell.needs else ''}" for cell in row)]
        for kind, row in hardware.TABLE.items()
        if kind != hardware.UNSERVED
    ]
    return table(["kind", *hardware.TARGETS], rows)


PARTS = {
    "file": lambda: fields(Recipe),
    "quantizes": lambda: fields(Quantizes),
    "arguments": lambda: fields(modifiers.QuantArgs),
    "kv_cache": lambda: fields(modifiers.KvCache),
    "group": lambda: fields(modifiers.Group, SchemeArgs),
    "mapping": lambda: fields(modifiers.AwqMapping),
    "modifiers": lambda: "\n".join(_modifier(name).rstrip("\n") + "\n" for name in Modifier.model_fields),
    "schemes": lambda: ", ".join(f"`{name}`" for name in SCHEMES) + "\n",
    "shipped": _shipped,
    "hardware": _hardware,
}


def filled(text: str) -> str:
    return _PART.sub(lambda match: f"{match[1]}\n{PARTS[match[2]]()}\n{match[3]}", text)


if __name__ == "__main__":
    before = DOCUMENT.read_text(encoding="utf-8")
    after = filled(before)
    if "--check" in sys.argv[1:]:
        sys.exit(f"{DOCUMENT} is not up to date: run {Path(__file__).name}" if after != before else 0)
    DOCUMENT.write_text(after, encoding="utf-8")
