"""A stage's results on one checkpoint, one for each suite or workload.

The one that was asked for last is in front (accuracy.json, throughput.json); the others lie beside it
(accuracy/<suite>.json, throughput/<workload>.json).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantpress.artifact import manifest
from quantpress.artifact.manifest import Artifact
from quantpress.runtime import atomic


@dataclass(frozen=True)
class Results:
    """Of a stage, `accuracy` or `throughput`, on the checkpoint of this digest. Raise StageError for files not ours."""

    folder: Path
    stage: str
    digest: str

    @property
    def front(self) -> Path:
        return self.folder / f"{self.stage}.json"

    def aside(self, name: str) -> Path:
        return self.folder / self.stage / f"{name}.json"

    def current(self, path: Path) -> dict[str, Any] | None:
        """The result in this file, if it belongs to this very checkpoint."""
        found = manifest.result_in(path)
        return found if found and found["checkpoint_digest"] == self.digest else None

    def files(self) -> list[Path]:
        """Every result, the one in front first; of whichever checkpoint."""
        paths = [self.front, *sorted((self.folder / self.stage).glob("*.json"))]
        return [path for path in paths if path.is_file()]

    def all(self) -> list[dict[str, Any]]:
        """Every result of this checkpoint, the one in front first."""
        return [found for path in self.files() if (found := self.current(path))]

    def known(self, name: str) -> dict[str, Any] | None:
        """The result of this suite or workload, wherever it lies."""
        found = map(self.current, (self.front, self.aside(name)))
        return next((one for one in found if one and name_of(one) == name), None)

    def put(self, result: dict[str, Any]) -> None:
        """Writes the result to the front, and sets one of another name aside."""
        self._make_room(name_of(result))
        atomic.write_json(self.front, result)
        self.aside(name_of(result)).unlink(missing_ok=True)

    def to_front(self, name: str) -> None:
        """Does nothing if it is there already."""
        if self.aside(name).is_file():
            self._make_room(name)
            self.aside(name).replace(self.front)

    def _make_room(self, name: str) -> None:
        there = self.current(self.front)
        if there and there.get("complete", True) and name_of(there) != name:
            self.aside(name_of(there)).parent.mkdir(exist_ok=True)
            self.front.replace(self.aside(name_of(there)))


def name_of(result: dict[str, Any]) -> str:
    """Of the suite or workload."""
    return str(result["workload"]["name"] if "workload" in result else result["suite"])


def of(artifact: Artifact, stage: str) -> Results:
    return Results(artifact.folder, stage, str(artifact.finished()["digest"]))
