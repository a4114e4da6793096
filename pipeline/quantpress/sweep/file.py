"""A sweep as data: which models, recipes, suites and workloads are combined, and which combinations are left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, model_validator

from quantpress.errors import InputError
from quantpress.language.document import Document, load_yaml
from quantpress.language.validation import Line, Strict, validate
from quantpress.model.source import EMBEDDED
from quantpress.runtime import atomic

HINT = "correct the sweep; docs/how-to/sweep.md has one that works"
Axis = Literal["models", "recipes", "suites", "workloads"]
# What an exclusion calls one of each axis.
ONE_OF: dict[Axis, str] = {"models": "model", "recipes": "recipe", "suites": "suite", "workloads": "workload"}
_FILES = (".yaml", ".yml", ".json")
T = TypeVar("T")


class Exclusion(Strict):
    """Leaves out every stage that has all that is named here."""

    model: str | None = Field(default=None, description="As `models` has it; all of them.")
    recipe: str | None = Field(default=None, description="As `recipes` has it; all of them.")
    suite: str | None = Field(default=None, description="Leaves out evaluations alone.")
    workload: str | None = Field(default=None, description="Leaves out benches alone.")

    @model_validator(mode="after")
    def _of_something(self) -> Exclusion:
        if not self.named:
            raise ValueError("name a model, a recipe, a suite or a workload")
        if self.suite and self.workload:
            raise ValueError("no stage has a suite and a workload; write two exclusions")
        return self

    @property
    def named(self) -> dict[str, str]:
        return self.model_dump(exclude_none=True)

    def holds(self, **of: str) -> bool:
        """Whether a stage of these is left out."""
        return self.named.items() <= of.items()


class Cluster(Strict):
    """The cluster that `--render` asks Kubernetes for."""

    image: str = Field(min_length=1, description="Holds quantpress[cluster], and vLLM where there are workloads.")
    claim: str = Field(min_length=1, description="The PersistentVolumeClaim (ReadWriteMany) that all nodes share.")
    folder: str = Field(
        pattern=r"^/.+", description="Where it is mounted. The sweep lies in it, and its models and --out below."
    )
    nodes: int = Field(ge=1, description="Nodes that work.")
    cpus: int = Field(ge=1, description="Of each node.")
    memory: str = Field(pattern=r"^[1-9][0-9]*(Mi|Gi|Ti)$", description="Of each node: `64Gi`.")
    gpus: int = Field(default=0, ge=0, description="Of each node.")
    queue: str | None = Field(
        default=None, pattern=r"^[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?$", description="Kueue's LocalQueue; no Kueue."
    )


class Sweep(Strict):
    """Every recipe on every model, every suite and every workload on what comes of it."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$", description="Letters a-z, digits, `.`, `_`, `-`.")
    description: Line = Field(description="One line for people.")
    models: list[str] = Field(min_length=1, description="`embedded`, `org/name[@revision]`, a folder or a .gguf file.")
    recipes: list[str] = Field(min_length=1, description="Shipped names or paths.")
    suites: list[str] = Field(default=[], description="Shipped names or paths. Without any, nothing is scored.")
    workloads: list[str] = Field(default=[], description="Shipped names or paths. Without any, nothing is measured.")
    exclude: list[Exclusion] = Field(default=[], description="What is left out.")
    cluster: Cluster | None = Field(default=None, description="For `--render` alone.")


@dataclass(frozen=True)
class Cell:
    """One recipe on one model, the suites that score what comes of it, and the workloads that it is measured under.
    All are named as the file names them."""

    model: str
    recipe: str
    suites: tuple[str, ...] = ()
    workloads: tuple[str, ...] = ()


@dataclass(frozen=True)
class Read:
    """A sweep, and the document that it was read from, whose places errors name."""

    sweep: Sweep
    document: Document

    @property
    def cells(self) -> list[Cell]:
        """What is left when the exclusions have been taken out, in the order of the file."""
        return list(_cells(self.sweep))

    def located(self, axis: Axis, value: str) -> str:
        """What a value of the file names, for programs that work elsewhere: paths are relative to the file.

        A model is a path where there is such a folder or file, as with --model; of the others one looks like a path.
        Raises InputError for a model that is a path from the working folder only.
        """
        path = (self.document.source.parent / Path(value).expanduser()).resolve()
        if axis == "models":
            if value != EMBEDDED and not path.exists() and Path(value).exists():
                raise InputError(
                    f"{value!r} is in the working folder and not beside this file: paths are relative to this file",
                    hint=f"write {Path(value).absolute()}",
                )
            return str(path) if path.exists() and value != EMBEDDED else value
        return str(path) if "/" in value or path.suffix in _FILES else value

    def loaded(self, axis: Axis, load: Callable[[str], T], name_of: Callable[[T], str]) -> dict[str, T]:
        """What the values of an axis name, by value.

        Raises InputError with the place of everything that `load` raises one for, and of two with one name: their
        results would be one file.
        """
        values: list[str] = getattr(self.sweep, axis)
        found: dict[str, T] = {}
        names: dict[str, str] = {}
        hint = HINT
        for index, value in enumerate(values):
            try:
                found[value] = load(self.located(axis, value))
            except InputError as error:
                self.document.problem((axis, index), error.message)
                hint = error.hint or hint
                continue
            name = name_of(found[value])
            if name in names:
                self.document.problem((axis, index), f"{value!r} and {names[name]!r} have the same name, {name!r}")
            names[name] = value
        self.document.raise_problems(hint)
        return found


def read(path: Path) -> Read:
    """Reads and validates a sweep. Raises InputError naming file, line, value and rule of every problem."""
    document = load_yaml(path, atomic.read_input(path), HINT)
    sweep = validate(document, Sweep, HINT)
    for loc, message in _problems(sweep):
        document.problem(loc, message)
    document.raise_problems(HINT)
    return Read(sweep, document)


def _problems(sweep: Sweep) -> Iterator[tuple[tuple[str | int, ...], str]]:
    for axis, one in ONE_OF.items():
        values: list[str] = getattr(sweep, axis)
        for index, value in enumerate(values):
            if value in values[:index]:
                yield (axis, index), f"{value!r} is there twice"
        for index, exclusion in enumerate(sweep.exclude):
            named: Any = getattr(exclusion, one)
            if named is not None and named not in values:
                yield ("exclude", index, one), f"{named!r} is not among the {axis}"
    if sweep.exclude and not any(_cells(sweep)):
        yield ("exclude",), "nothing is left to do"


def _cells(sweep: Sweep) -> Iterator[Cell]:
    for model in sweep.models:
        for recipe in sweep.recipes:
            if not _left_out(sweep, model=model, recipe=recipe):
                yield Cell(
                    model,
                    recipe,
                    tuple(s for s in sweep.suites if not _left_out(sweep, model=model, recipe=recipe, suite=s)),
                    tuple(w for w in sweep.workloads if not _left_out(sweep, model=model, recipe=recipe, workload=w)),
                )


def _left_out(sweep: Sweep, **of: str) -> bool:
    return any(exclusion.holds(**of) for exclusion in sweep.exclude)
