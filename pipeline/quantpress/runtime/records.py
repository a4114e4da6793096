"""Data that quantpress writes and reads again: between processes, and in the files that a run leaves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from quantpress.errors import StageError, shown
from quantpress.runtime import atomic, secrets


class Record(BaseModel):
    """Named values with types. Unknown names are an error: they are a mistake of ours, or of who edited a file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def dump(self) -> dict[str, Any]:
        """The record as JSON has it."""
        return self.model_dump(mode="json")


class Stored(Record):
    """A record with a file of its own, whose shape has a number: `SCHEMA_VERSION`, raised with every change of it.

    `OLDER` turns the data of an older version, by its number, into today's; versions without an entry are refused.
    """

    SCHEMA_VERSION: ClassVar[int]
    OLDER: ClassVar[dict[int, Callable[[dict[str, Any]], dict[str, Any]]]] = {}

    def save(self, path: Path) -> None:
        """Writes the file, whole or not at all, and without secrets."""
        atomic.write_json(path, secrets.cleaned(self.as_saved()))

    def as_saved(self) -> dict[str, Any]:
        """The record as its file has it."""
        return {"schema_version": self.SCHEMA_VERSION, **self.dump()}

    @classmethod
    def load(cls, path: Path) -> Self:
        """Reads what `save` wrote. Raises StageError for a file that is damaged, or of a version that is not known."""
        return cls.read(atomic.read_json(path), path)

    @classmethod
    def read(cls, document: Any, path: Path) -> Self:
        """Reads the document that came from this file. Raises StageError as `load` does."""
        data = dict(document) if isinstance(document, dict) else document
        version = data.pop("schema_version", None) if isinstance(data, dict) else None
        if not isinstance(version, int) or version not in {cls.SCHEMA_VERSION, *cls.OLDER}:
            raise StageError(
                f"{path} has schema_version {shown(version)}; this version of quantpress reads "
                f"{', '.join(map(str, sorted({*cls.OLDER, cls.SCHEMA_VERSION})))}",
                hint=f"move {path} away and run again, or use the version that wrote it",
            )
        try:
            return cls.model_validate(cls._today(version, data, path))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise StageError(
                f"{path} is damaged: {where}: {first['msg']}, found {shown(first['input'])}",
                hint=f"restore {path}, or move it away and run again",
            ) from error

    @classmethod
    def _today(cls, version: int, data: dict[str, Any], path: Path) -> dict[str, Any]:
        """The data in today's shape. Raises StageError where an older file does not have the shape of its version."""
        if version not in cls.OLDER:
            return data
        try:
            return cls.OLDER[version](data)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise StageError(
                f"{path} is damaged: it is not of schema_version {version}, which it names",
                hint=f"restore {path}, or move it away and run again",
            ) from error
