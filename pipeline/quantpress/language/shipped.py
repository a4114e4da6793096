"""Recipes, suites, workloads and engines that come with quantpress, and how a name on the command line finds one."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from quantpress.errors import InputError, guessed

Kind = Literal["recipes", "suites", "tasks", "workloads", "engines"]

_PACKAGE = Path(__file__).resolve().parents[1]
_IN_TREE: dict[Kind, str] = {
    "recipes": "recipes",
    "suites": "evaluate/suites",
    "tasks": "evaluate/tasks",
    "workloads": "serve/workloads",
    "engines": "serve/engines",
}


def folder(kind: Kind) -> Path:
    """Where the shipped files of this kind lie: inside the installed wheel, or in the source tree."""
    installed = _PACKAGE / "shipped" / kind
    return installed if installed.is_dir() else _PACKAGE.parents[1] / _IN_TREE[kind]


def names(kind: Kind) -> list[str]:
    return sorted(path.stem for path in folder(kind).glob("*.yaml"))


def find(kind: Kind, name: str) -> Path:
    """The file that `name` means: a path, or the name of a shipped file.

    Raises InputError naming the nearest shipped name.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml", ".json") or "/" in name:
        if path.is_file():
            return path
        listed = " (`quantpress recipes list`)" if kind == "recipes" else ""
        raise InputError(f"{name}: no such file", hint=f"shipped {kind}: {', '.join(names(kind))}{listed}")
    shipped = folder(kind) / f"{name}.yaml"
    if shipped.is_file():
        return shipped
    guess = guessed(name, names(kind))
    raise InputError(
        f"{name!r} is not a shipped {kind[:-1]}" + (f"; {guess}" if guess else ""),
        hint=f"name one of {', '.join(names(kind))}, or a path ending in .yaml",
    )
