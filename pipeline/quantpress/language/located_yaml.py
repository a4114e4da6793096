"""YAML that knows where each value stands, so that an error can name the line.

Safe-loaded: scalars, lists and mappings with text keys. Duplicate keys and aliases are problems, not surprises.
"""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticCustomError

from quantpress.errors import InputError, first_line

_COLLECTIONS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")
_LARGEST = 2**63
Loc = tuple[str | int, ...]
M = TypeVar("M", bound=BaseModel)


class AtError(PydanticCustomError):
    """What a validator raises for a problem that stands further down, at `part` of the value that it validates."""

    def __new__(cls, part: str | int, message: str) -> AtError:
        return super().__new__(cls, "at", "{message}", {"message": message, "part": part})


@dataclass(frozen=True, order=True)
class Mark:
    """Where a value stands: a file with line and column (from 1), or an option of the command line."""

    source: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.source}:{self.line}:{self.column}" if self.line else self.source


@dataclass(frozen=True, order=True)
class Problem:
    mark: Mark
    message: str


@dataclass
class Document:
    """Parsed text: its data, and for each path into the data the mark of its key or item."""

    source: Path
    data: Any = None
    marks: dict[Loc, Mark] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)

    def mark(self, loc: Loc) -> Mark:
        """The mark of `loc`, or of the nearest thing that holds it."""
        while loc and loc not in self.marks:
            loc = loc[:-1]
        return self.marks.get(loc, Mark(str(self.source), 1, 1))

    def problem(self, loc: Loc, message: str) -> None:
        self.problems.append(Problem(self.mark(loc), message))

    def part(self, loc: Loc) -> Document:
        """What stands at `loc`, as a document of its own."""
        data = self.data
        for item in loc:
            data = data[item]
        inside = {where[len(loc) :]: mark for where, mark in self.marks.items() if where[: len(loc)] == loc}
        return Document(self.source, data, inside)

    def put(self, loc: Loc, other: Document) -> None:
        """Puts the data of `other` at `loc`, which must be a key of a mapping that is there, with its marks."""
        target = self.data
        for part in loc[:-1]:
            target = target[part]
        target[loc[-1]] = other.data
        self.marks = {where: mark for where, mark in self.marks.items() if where[: len(loc)] != loc}
        self.marks |= {(*loc, *where): mark for where, mark in other.marks.items()}
        self.problems += other.problems

    def raise_problems(self, hint: str) -> None:
        """Raises InputError with every problem found so far, in the order of the file."""
        if not self.problems:
            return
        lines = [f"{problem.mark}: {problem.message}" for problem in sorted(set(self.problems))]
        raise InputError("\n       ".join(lines), hint=hint)


def load(source: Path, text: str, hint: str) -> Document:
    """Parses YAML text. Raises InputError for text that is not YAML; other problems are collected."""
    document = _parse(source, text, hint, lambda node: Mark(str(source), *_position(node)))
    if document.data is None:
        document.raise_problems(hint)
    return document


def _parse(source: Path, text: str, hint: str, mark: Callable[[yaml.Node], Mark]) -> Document:
    document = Document(source)
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is not None:
            document.data = _Walker(loader, document, mark).walk(node, ())
    except RecursionError as error:
        raise InputError(f"{source}: nested too deeply to be a recipe, suite or workload", hint=hint) from error
    except yaml.YAMLError as error:
        spot = getattr(error, "problem_mark", None)
        line, column = (spot.line + 1, spot.column + 1) if spot else (1, 1)
        what = getattr(error, "problem", None) or str(error)
        document.problems.append(Problem(Mark(str(source), line, column), f"not YAML: {what}"))
    return document


class _Walker:
    def __init__(self, loader: yaml.SafeLoader, document: Document, mark: Callable[[yaml.Node], Mark]) -> None:
        self.loader = loader
        self.document = document
        self.mark = mark
        self.seen: set[int] = set()

    def walk(self, node: yaml.Node, loc: Loc) -> Any:
        self.document.marks.setdefault(loc, self.mark(node))
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
        return self._scalar(node, loc)

    def _scalar(self, node: yaml.Node, loc: Loc) -> Any:
        try:
            value = self.loader.construct_object(node)
        except Exception as error:  # PyYAML lets through whatever int() or datetime() raises, for 2024-13-01 say
            self.document.problem(
                loc, f"{_show(node.value)} is not a value ({first_line(error)}); quote it if it is text"
            )
            return None
        if isinstance(value, int) and abs(value) >= _LARGEST:
            self.document.problem(loc, f"{_show(node.value)} is too large a number")
            return None
        if isinstance(value, int | float) and ":" in node.value:
            self.document.problem(loc, f"YAML reads {node.value} as the number {value}; quote it: '{node.value}'")
        return value

    def _mapping(self, node: yaml.MappingNode, loc: Loc) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            where = (*loc, str(key))
            first = self.document.marks.get(where)
            self.document.marks[where] = self.mark(key_node)
            if key is None or key_node.tag not in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:int"):
                self.document.problem(where, f"the key {key!r} is not plain text")
            elif key in result:
                line = first.line if first else "?"
                self.document.problem(where, f"duplicate key {key!r} (first on line {line}); YAML would keep the last")
            result[str(key)] = self.walk(value_node, where)
        return result


def _position(node: yaml.Node) -> tuple[int, int]:
    return node.start_mark.line + 1, node.start_mark.column + 1


def validate(
    document: Document, model: type[M], hint: str, early: Callable[[Any], Iterable[tuple[Loc, str]]] | None = None
) -> M:
    """Validates the document's data. Raises InputError naming file, line, column, value and rule of every problem.

    pydantic checks rules between fields only where each field is sound by itself; `early` finds on the raw data what
    would otherwise only be said once the rest is mended.
    """
    if not isinstance(document.data, dict):
        document.problem((), f"expected a mapping of {', '.join(model.model_fields)}; found {_show(document.data)}")
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


def merge(base: Document, other: Document) -> None:
    """Puts `other` over `base`: mappings key by key, everything else replaced whole."""
    base.problems += other.problems
    _merge(base, other, ())


def _merge(base: Document, other: Document, loc: Loc) -> None:
    ours, theirs = base.part(loc).data, other.part(loc).data
    for key, value in theirs.items():
        if isinstance(value, dict) and isinstance(ours.get(key), dict):
            _merge(base, other, (*loc, key))
        else:
            base.put((*loc, key), other.part((*loc, key)))


def override(document: Document, settings: Sequence[str]) -> None:
    """Applies `--set a.b=value` items to the data; the value is read as YAML, under the same rules as a file.

    Raises InputError if an item is malformed; a value that is not allowed becomes a problem of the document.
    """
    for item in settings:
        path, separator, text = item.partition("=")
        parts = path.split(".")
        if not separator or not all(parts):
            raise InputError(f"--set {item!r} is not KEY.KEY=VALUE", hint="for example --set calibration.samples=64")
        value = _parse_option(f"--set {path}", text)
        if value.problems:
            document.problems += value.problems
            continue
        put_at(document, parts, value, f"--set {item!r}")


def _parse_option(option: str, text: str) -> Document:
    return _parse(Path(option), text, "quote it for the shell", lambda _: Mark(option))


def put_at(document: Document, parts: Sequence[str], value: Document, what: str) -> None:
    """Puts `value` at a dotted path; mappings on the way are made. `what` names the setting in errors."""
    data: Any = document.data
    loc: Loc = ()
    for part in parts[:-1]:
        key: str | int = part
        if isinstance(data, list) and part.isdecimal() and len(part) < 5 and int(part) < len(data):
            key = int(part)
        elif isinstance(data, dict):
            data.setdefault(part, {})
        else:
            raise InputError(f"{what}: there is nothing at {part!r} to set", hint="look at the recipe's keys")
        data, loc = data[key], (*loc, key)
    if not isinstance(data, dict):
        raise InputError(f"{what}: there are no keys to set", hint="look at the recipe's keys")
    document.put((*loc, parts[-1]), value)


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
