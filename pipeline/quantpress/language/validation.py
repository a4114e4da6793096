"""Checking a document against a pydantic model, with file and line of every problem."""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Iterable
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from quantpress.errors import nearest, shown
from quantpress.language.document import Document, Loc


class Strict(BaseModel):
    """Data of people: unknown keys are errors, and no value is turned into another type."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def _on_one_line(text: str) -> str:
    if len(text.strip().splitlines()) > 1:
        raise ValueError("one line, without line breaks")
    return text


# Text for reports, tables and comments; a folded text (`>`) ends with a line break, which is none of its own.
Line = Annotated[str, Field(min_length=1), AfterValidator(_on_one_line)]

M = TypeVar("M", bound=BaseModel)


class AtError(PydanticCustomError):
    """What a validator raises for a problem that stands further down, at `part` of the value that it validates."""

    def __new__(cls, part: str | int, message: str) -> AtError:
        return super().__new__(cls, "at", "{message}", {"message": message, "part": part})


def validate(
    document: Document, model: type[M], hint: str, early: Callable[[Any], Iterable[tuple[Loc, str]]] | None = None
) -> M:
    """Validates the document's data. Raises InputError naming file, line, column, value and rule of every problem.

    pydantic checks rules between fields only where each field is sound by itself; `early` finds on the raw data what
    would otherwise only be said once the rest is mended.
    """
    if not isinstance(document.data, dict):
        document.problem((), f"expected a mapping of {', '.join(model.model_fields)}; found {shown(document.data)}")
        document.raise_problems(hint)
    try:
        result = model.model_validate(document.data)
    except ValidationError as error:
        for item in error.errors():
            place = (item["ctx"]["part"],) if item["type"] == "at" else ()
            document.problem((*item["loc"], *place), _explain(model, dict(item)))
        for loc, message in early(document.data) if early else ():
            document.problem(loc, message)
        document.raise_problems(hint)
        raise AssertionError("unreachable: a validation error has at least one item") from error
    document.raise_problems(hint)
    return result


# What pydantic adds to a place to say which member of a union it tried.
_UNION_TAGS = ("constrained-int", "constrained-float", "constrained-str", "literal", "bool", "int", "float", "str")


def _explain(model: type[BaseModel], item: dict[str, Any]) -> str:
    loc: Loc = item["loc"]
    where = ".".join(str(part) for part in loc if str(part).partition("[")[0] not in _UNION_TAGS)
    if item["type"] == "extra_forbidden":
        known = fields_at(model, loc[:-1])
        return f"unknown key {where!r}; {nearest(str(loc[-1]), known)}"
    if item["type"] == "missing":
        return f"{where!r} is missing"
    if item["type"] == "at":
        return str(item["msg"])
    if item["type"] == "value_error":
        return f"{where}: {item['ctx']['error']}" if where else str(item["ctx"]["error"])
    return f"{where} is {shown(item['input'])}: {item['msg'][0].lower()}{item['msg'][1:]}"


def fields_at(model: type[BaseModel], loc: Loc) -> list[str]:
    """The known keys of the (nested) model that stands at `loc`."""
    current: type[BaseModel] | None = model
    for part in loc:
        if isinstance(part, int) or current is None:
            continue
        info = current.model_fields.get(part)
        current = _model_in(info.annotation) if info else None
    return list(current.model_fields) if current else []


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if typing.get_origin(annotation) in (list, dict, typing.Union, types.UnionType, typing.Annotated):
        return next(filter(None, map(_model_in, typing.get_args(annotation))), None)
    return None
