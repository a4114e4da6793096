"""Engines apart from workloads: the shipped ones, files of one's own, and what `--engine` puts over a workload's."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path

from pydantic import Field

from quantpress.language import shipped
from quantpress.language.document import Document, load_yaml
from quantpress.language.overrides import merge, override
from quantpress.language.validation import Line, validate
from quantpress.runtime import atomic
from quantpress_serve.workload.engine import Engine, require_names
from quantpress_serve.workload.trust import require_trusted

HINT = "correct the engine; serve/engines/auto.yaml is one that works"
_SETTING = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*=")


class EngineFile(Engine):
    """An engine under a name: what it does not set is left to the workload, and then to quantpress or vLLM."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$", description="Letters a-z, digits, `.`, `_`, `-`.")
    description: Line = Field(description="One line for people.")


def load_engine(items: Sequence[str], trusted: Collection[str] = ()) -> Engine:
    """The engine that these items of --engine make, where there is no workload.

    `trusted` are arguments of vLLM's that it may set although they are not about speed (trust.require_trusted). Raises
    InputError with every problem.
    """
    engine = layered(items)
    require_names(engine)
    require_trusted(engine.extra_args, trusted)
    return engine


def layered(items: Sequence[str]) -> Engine:
    """What `load_engine` gives, without asking what it may set. Raises InputError with every problem."""
    document = Document(Path("--engine"), {})
    put_over(document, items)
    return validate(document, Engine, HINT)


def load_file(name: str) -> EngineFile:
    """An engine's file by its path or shipped name. Raises InputError with every problem in it."""
    return validate(_document(name), EngineFile, HINT)


def put_over_engine_of(workload: Document, items: Sequence[str]) -> None:
    """Puts the items over the workload's own engine settings; an `engine` that is no mapping is left to validation."""
    data = workload.data
    if not items or not isinstance(data, dict) or not isinstance(data.get("engine", {}), dict):
        return
    engine = workload.part(("engine",)) if "engine" in data else Document(workload.source, {})
    put_over(engine, items)
    workload.put(("engine",), engine)


def is_setting(item: str) -> bool:
    """Whether an item of --engine is KEY=VALUE, and no name or file."""
    return _SETTING.match(item) is not None


def put_over(engine: Document, items: Sequence[str]) -> None:
    """Puts each item over the settings before it: a shipped name, a file, or KEY=VALUE.

    Raises InputError for a file that is wrong by itself, or a KEY=VALUE that is none.
    """
    for item in items:
        if is_setting(item):
            override(engine, [item], "--engine", "max_num_seqs=64")
            continue
        document = _document(item)
        validate(document, EngineFile, HINT)
        del document.data["name"], document.data["description"]
        merge(engine, document)


def _document(name: str) -> Document:
    path = shipped.find("engines", name)
    return load_yaml(path, atomic.read_input(path), HINT)
