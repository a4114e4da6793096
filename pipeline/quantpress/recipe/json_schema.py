"""The recipe language as a JSON Schema, for editors; committed as recipes/schema.json."""

from __future__ import annotations

import json
from typing import Any

from quantpress.recipe.recipe import Recipe

_EXTENDS = {
    "type": "string",
    "description": "Another recipe to start from: a shipped name, or a path relative to this file. What this file "
    "gives is put over it: mappings key by key, everything else whole.",
}
_OVERRIDES = {
    "type": "object",
    "description": "Single fields of the recipe that is extended, by dotted path: {modifiers.0.gptq.block_size: 64}.",
}


def schema() -> dict[str, Any]:
    """What a recipe's file may hold. Rules between fields are checked by `quantpress recipes validate` alone."""
    made = Recipe.model_json_schema()
    made["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    made["title"] = "quantpress recipe"
    made["properties"] = {**made["properties"], "extends": _EXTENDS, "overrides": _OVERRIDES}
    made["required"] = ["name"]
    made["anyOf"] = [{"required": ["description", "modifiers"]}, {"required": ["extends"]}]
    made["$defs"]["Modifier"] |= {"minProperties": 1, "maxProperties": 1}
    return made


def text() -> str:
    return json.dumps(schema(), indent=2) + "\n"
