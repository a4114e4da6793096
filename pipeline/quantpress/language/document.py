"""YAML that knows where each value stands, so that an error can name the line.

Safe-loaded: scalars, lists and mappings with text keys. Duplicate keys and aliases are problems, not surprises.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from quantpress.errors import InputError, first_line, printable, shown
from quantpress.runtime.foreign import DEEPEST

_COLLECTIONS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")
_LARGEST = 2**63
_LONGEST = 2**20  # characters, which take PyYAML half a minute
Loc = tuple[str | int, ...]


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


def load_yaml(source: Path, text: str, hint: str) -> Document:
    """Parses YAML text. Raises InputError for text that is not YAML; other problems are collected."""
    document = parse(source, text, hint, lambda node: Mark(str(source), *_position(node)))
    if document.data is None:
        document.raise_problems(hint)
    return document


def parse(source: Path, text: str, hint: str, mark: Callable[[yaml.Node], Mark]) -> Document:
    document = Document(source)
    if len(text) > _LONGEST:
        raise InputError(f"{source} has more than {_LONGEST >> 20} MiB: no file of ours has", hint=hint)
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is not None:
            document.data = _Walker(loader, document, mark).walk(node, ())
    except _TooDeepError as error:
        raise InputError(f"{source}: nested too deeply to be a recipe, suite, workload or engine", hint=hint) from error
    except yaml.YAMLError as error:
        spot = getattr(error, "problem_mark", None)
        line, column = (spot.line + 1, spot.column + 1) if spot else (1, 1)
        what = getattr(error, "problem", None) or str(error)
        document.problems.append(Problem(Mark(str(source), line, column), f"not YAML: {what}"))
    return document


class _TooDeepError(Exception):
    pass


class _Loader(yaml.SafeLoader):
    """PyYAML's, which would go on until Python's stack ends."""

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self._depth += 1
        if self._depth > DEEPEST:
            raise _TooDeepError
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        return node


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
                loc, f"{shown(node.value)} is not a value ({first_line(error)}); quote it if it is text"
            )
            return None
        if isinstance(value, str) and printable(value) != value:
            self.document.problem(loc, f"{shown(value)} holds a control character, which no text here needs")
            return None
        if isinstance(value, int) and abs(value) >= _LARGEST:
            self.document.problem(loc, f"{shown(node.value)} is too large a number")
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
            elif printable(key) != key:
                self.document.problem(where, f"the key {shown(key)} holds a control character")
            elif key in result:
                line = first.line if first else "?"
                self.document.problem(where, f"duplicate key {key!r} (first on line {line}); YAML would keep the last")
            result[str(key)] = self.walk(value_node, where)
        return result


def _position(node: yaml.Node) -> tuple[int, int]:
    return node.start_mark.line + 1, node.start_mark.column + 1
