"""A stage's results on one checkpoint, one for each suite or workload.

The one that was asked for last is in front (accuracy.json, throughput.json); the others lie beside it
(accuracy/<suite>.json, throughput/<workload>.json).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

from quantpress.artifact.manifest import Artifact
from quantpress.runtime.records import Stored


class StageResult(Stored):
    """What a stage found out about one checkpoint; `STAGE` names its files (accuracy.json, accuracy/<suite>.json)."""

    SCHEMA_VERSION = 4
    STAGE: ClassVar[str]

    checkpoint_digest: str

    @property
    def name(self) -> str:
        """Of the suite or workload."""
        raise NotImplementedError

    @property
    def is_complete(self) -> bool:
        """Whether the stage came to its end."""
        return True


T = TypeVar("T", bound=StageResult)


@dataclass(frozen=True)
class Results(Generic[T]):
    """A stage's results on the checkpoint of this digest. Its methods raise StageError for files that are not ours."""

    folder: Path
    kind: type[T]
    digest: str

    @property
    def front(self) -> Path:
        return self.folder / f"{self.kind.STAGE}.json"

    def aside(self, name: str) -> Path:
        return self.folder / self.kind.STAGE / f"{name}.json"

    def current(self, path: Path) -> T | None:
        """The result in this file, if it is there and belongs to this very checkpoint."""
        found = self.kind.load(path) if path.is_file() else None
        return found if found and found.checkpoint_digest == self.digest else None

    def files(self) -> list[Path]:
        """Every result, the one in front first; of whichever checkpoint."""
        paths = [self.front, *sorted((self.folder / self.kind.STAGE).glob("*.json"))]
        return [path for path in paths if path.is_file()]

    def all(self) -> list[T]:
        """Every result of this checkpoint, the one in front first."""
        return [found for path in self.files() if (found := self.current(path))]

    def newest(self) -> T | None:
        """The result in front: of the suite or workload that was asked for last."""
        return self.current(self.front)

    def known(self, name: str) -> T | None:
        """The result of this suite or workload, wherever it lies."""
        found = map(self.current, (self.front, self.aside(name)))
        return next((result for result in found if result and result.name == name), None)

    def put(self, result: T) -> None:
        """Writes the result to the front, and sets one of another name aside."""
        self._make_room(result.name)
        result.save(self.front)
        self.aside(result.name).unlink(missing_ok=True)

    def to_front(self, name: str) -> None:
        """Does nothing if it is there already."""
        if self.aside(name).is_file():
            self._make_room(name)
            self.aside(name).replace(self.front)

    def _make_room(self, name: str) -> None:
        there = self.current(self.front)
        if there and there.is_complete and there.name != name:
            self.aside(there.name).parent.mkdir(exist_ok=True)
            self.front.replace(self.aside(there.name))


def results_of(artifact: Artifact, kind: type[T]) -> Results[T]:
    """The results of one kind on the artifact's checkpoint. Raises StageError where there is no checkpoint."""
    return Results(artifact.folder, kind, artifact.finished().digest)
