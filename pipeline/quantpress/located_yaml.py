"""YAML that knows where each value stands, so that an error can name the line.

Safe-loaded: scalars, lists and mappings with text keys. Duplicate keys and aliases are problems, not surprises.
"""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from quantpress.errors import InputError, first_line

_COLLECTIONS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")
Loc = tuple[str | int, ...]
M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class Problem:
    line: int
    column: int
    message: str


@dataclass
class Document:
    """A parsed file: its data, and for each path into the data the mark (line, column; from 1) of key or item."""

    source: Path
    data: Any = None
    marks: dict[Loc, tuple[int, int]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def mark(self, loc: Loc) -> tuple[int, int]:
        """The mark of `loc`, or of the nearest thing that holds it."""
        while loc and loc not in self.marks:
            loc = loc[:-1]
        return self.marks.get(loc, (1, 1))

    def problem(self, loc: Loc, message: str) -> None:
        self.problems.append(Problem(*self.mark(loc), message))

    def raise_problems(self, hint: str) -> None:
        """Raises InputError with every problem found so far, in the order of the file."""
        if not self.problems:
            return
        ordered = sorted(set(self.problems), key=lambda problem: (problem.line, problem.column, problem.message))
        lines = [f"{self.source}:{p.line}:{p.column}: {p.message}" for p in ordered]
        raise InputError("\n       ".join(lines), hint=hint)


def load(source: Path, text: str, hint: str) -> Document:
    """Parses YAML text. Raises InputError for text that is not YAML; other problems are collected."""
    document = Document(source)
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is not None:
            document.data = _Walker(loader, document).walk(node, ())
    except RecursionError as error:
        raise InputError(f"{source}: nested too deeply to be a recipe, suite or workload", hint=hint) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        what = getattr(error, "problem", None) or str(error)
        document.problems.append(Problem(line, column, f"not YAML: {what}"))
        document.raise_problems(hint)
    return document


class _Walker:
    def __init__(self, loader: yaml.SafeLoader, document: Document) -> None:
        self.loader = loader
        self.document = document
        self.seen: set[int] = set()

    def walk(self, node: yaml.Node, loc: Loc) -> Any:
        self.document.marks.setdefault(loc, _position(node))
        if id(node) in self.seen:
            self.document.problem(loc, "aliases (*name) are not allowed; write the value out")
            return None
        self.seen.add(id(node))
        if isinstance(node, yaml.CollectionNode) and node.tag not in _COLLECTIONS:
            self.document.problem(loc, f"the tag {node.tag!r} is not allowed; this is data, not objects")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, loc)
        if isinstance(node, yaml.SequenceNode):
            return [self.walk(item, (*loc, index)) for index, item in enumerate(node.value)]
        try:
            return self.loader.construct_object(node)
        except Exception as error:  # PyYAML lets through whatever int() or datetime() raises, for 2024-13-01 say
            self.document.problem(
                loc, f"{_show(node.value)} is not a value ({first_line(error)}); quote it if it is text"
            )
            return None

    def _mapping(self, node: yaml.MappingNode, loc: Loc) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            where = (*loc, str(key))
            first = self.document.marks.get(where)
            self.document.marks[where] = _position(key_node)
            if key is None or key_node.tag not in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:int"):
                self.document.problem(where, f"the key {key!r} is not plain text")
            elif key in result:
                line = first[0] if first else "?"
                self.document.problem(where, f"duplicate key {key!r} (first on line {line}); YAML would keep the last")
            result[str(key)] = self.walk(value_node, where)
        return result


def _position(node: yaml.Node) -> tuple[int, int]:
    return node.start_mark.line + 1, node.start_mark.column + 1


def validate(document: Document, model: type[M], hint: str) -> M:
    """Validates the document's data. Raises InputError naming file, line, column, value and rule of every problem."""
    if not isinstance(document.data, dict):
        document.problem((), f"expected a mapping of {', '.join(model.model_fields)}; found {_show(document.data)}")
        document.raise_problems(hint)
    try:
        result = model.model_validate(document.data)
    except ValidationError as error:
        for item in error.errors():
            document.problem(item["loc"], _explain(model, dict(item)))
        document.raise_problems(hint)
        raise AssertionError("unreachable: a validation error has at least one item") from error
    document.raise_problems(hint)
    return result


def _explain(model: type[BaseModel], item: dict[str, Any]) -> str:
    loc: Loc = item["loc"]
    where = ".".join(str(part) for part in loc)
    if item["type"] == "extra_forbidden":
        known = fields_at(model, loc[:-1])
        return f"unknown key {where!r}; {nearest(str(loc[-1]), known)}"
    if item["type"] == "missing":
        return f"{where!r} is missing"
    if item["type"] == "value_error":
        return f"{where}: {item['ctx']['error']}" if where else str(item["ctx"]["error"])
    return f"{where} is {_show(item['input'])}: {item['msg'][0].lower()}{item['msg'][1:]}"


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


def nearest(name: str, known: Iterable[str]) -> str:
    """Names the nearest known name, or all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(name.lower(), [n.lower() for n in names], n=1, cutoff=0.6)
    if close:
        return f"did you mean {next(n for n in names if n.lower() == close[0])!r}?"
    return f"known: {', '.join(names)}" if names else "nothing is known here"


def override(document: Document, settings: Sequence[str]) -> None:
    """Applies `--set a.b=value` items to the data; the value is read as YAML. Raises InputError if one is malformed."""
    for item in settings:
        path, separator, text = item.partition("=")
        parts = path.split(".")
        if not separator or not all(parts):
            raise InputError(f"--set {item!r} is not KEY.KEY=VALUE", hint="for example --set calibration.samples=64")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise InputError(f"--set {path}: {text!r} is not a YAML value", hint="quote it for the shell") from error
        _assign(document.data, parts, value, item)


def _assign(data: Any, parts: Sequence[str], value: Any, item: str) -> None:
    for part in parts[:-1]:
        if isinstance(data, list) and part.isdigit() and int(part) < len(data):
            data = data[int(part)]
        elif isinstance(data, dict):
            data = data.setdefault(part, {})
        else:
            raise InputError(f"--set {item!r}: there is nothing at {part!r} to set", hint="look at the recipe's keys")
    if not isinstance(data, dict):
        raise InputError(f"--set {item!r}: there are no keys to set", hint="look at the recipe's keys")
    data[parts[-1]] = value


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
