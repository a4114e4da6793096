"""Where a model comes from and under which terms, as its own files say. What they do not say is not made up."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantpress.errors import InputError, first_line
from quantpress.model.card import metadata_of
from quantpress.model.source import EMBEDDED, Model
from quantpress.runtime import console
from quantpress.runtime.inside import inside
from quantpress.runtime.time_limit import time_limit

# The GGUF file of the embedded model (its digest is checked) says: general.organization HuggingFaceTB, general.license
# apache-2.0, general.languages en; its name is SmolLM2-135M-Instruct.
_EMBEDDED = {"base_model": "HuggingFaceTB/SmolLM2-135M-Instruct", "license": "apache-2.0", "language": ["en"]}
_TERMS = ("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*")
_HEAD_S = 10.0  # seconds for reading it
_LONGEST_TERM = 200  # characters of a licence's or a language's name
_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")


@dataclass(frozen=True)
class Origin:
    """`license` is an identifier of the Hugging Face hub; `source` says who named it. `terms` are files to hand on."""

    base_model: str | None
    license: str | None
    license_name: str | None
    license_link: str | None
    language: list[str]
    source: str
    terms: list[Path]


def origin_of(model: Model, base_model: str | None = None, license: str | None = None) -> Origin:
    """The origin of a model; `base_model` and `license` are what the user says, and count before the files.

    Raises InputError for a base model that is no id of the hub, and for a file that lies outside of the model's folder.
    """
    if base_model and not _HUB_ID.match(base_model):
        raise InputError(f"--base-model {base_model!r} is not an id of the form org/name", hint="leave it out")
    found, source = _said(model)
    if license:
        found, source = {**found, "license": license, "license_name": None, "license_link": None}, "whoever packaged it"
    language = found.get("language") or []
    terms_of_language = map(_term, language[:100] if isinstance(language, list) else [language])
    hub = model.source.partition("@")[0]
    own = hub if model.revision and _HUB_ID.match(hub) and not Path(model.source).exists() else None
    named = sorted(path for pattern in _TERMS for path in model.path.glob(pattern) if path.is_file())
    terms = [inside(model.path, path.name) for path in named]
    return Origin(
        base_model=base_model or own or found.get("base_model"),
        license=_text(found, "license"),
        license_name=_text(found, "license_name"),
        license_link=_text(found, "license_link"),
        language=[one for one in terms_of_language if one],
        source=source if _text(found, "license") else "nobody",
        terms=terms,
    )


def _text(found: dict[str, Any], key: str) -> str | None:
    return _term(found.get(key))


def _term(value: object) -> str | None:
    """A name or an address on one line; None for what is none."""
    text = str(value) if isinstance(value, str | int | float) and value else ""
    return text if 0 < len(text) <= _LONGEST_TERM and text.isprintable() else None


def _said(model: Model) -> tuple[dict[str, Any], str]:
    """What the model's own files say, and which of them."""
    if model.source == EMBEDDED:
        return _EMBEDDED, "the metadata of its GGUF file"
    if model.source.endswith(".gguf"):
        return _of_gguf(Path(model.source)), "the metadata of its GGUF file"
    # A card's base_model is the parent of this model; the base of our checkpoint is this model itself.
    said = {key: value for key, value in metadata_of(inside(model.path, "README.md")).items() if key != "base_model"}
    return said, "the model card (README.md) beside its weights"


def _of_gguf(path: Path) -> dict[str, Any]:
    from gguf import GGUFReader  # 0.2 s: only for models that come from such a file

    try:
        with time_limit(_HEAD_S):
            fields = GGUFReader(path).fields
            names = [name for name in ("license", "languages") if f"general.{name}" in fields]
            found = {name: fields[f"general.{name}"].contents() for name in names}
    except Exception as error:  # numpy and the reader raise a dozen unrelated classes
        console.warn(f"{path}: its metadata cannot be read ({first_line(error)}), so its licence counts as not stated")
        return {}
    return {"license": found.get("license"), "language": found.get("languages")}
