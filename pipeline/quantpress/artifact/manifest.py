"""manifest.json: what went in, what came out, and the digest that names it. Written last: its presence means done."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantpress.errors import StageError, first_line
from quantpress.runtime import atomic, digests

SCHEMA_VERSION = 4


@contextmanager
def readable(folder: Path) -> Iterator[None]:
    """Turns what wrong values inside a manifest or a result cause into one error that names the folder."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise StageError(
            f"{folder} holds a manifest or a result that is not as quantpress writes it "
            f"({type(error).__name__}: {first_line(error)[:200]})",
            hint=f"delete {folder} and run again",
        ) from error


def result_in(path: Path) -> dict[str, Any] | None:
    """The result in this file, whichever checkpoint it belongs to; None where there is no file."""
    return _read(path, {"checkpoint_digest"}) if path.is_file() else None


_MANIFEST_KEYS = {"recipe", "digest", "inputs", "model", "files", "bytes", "created", "machine", "scales", "warnings"}


def _read(path: Path, keys: set[str]) -> dict[str, Any]:
    """A result of ours. Raises StageError if the file is something else, or of a version that is not known."""
    value = atomic.read_json(path)
    if not isinstance(value, dict) or value.get("schema_version") != SCHEMA_VERSION or not keys <= value.keys():
        raise StageError(
            f"{path} is not a result of this version of quantpress (schema_version {SCHEMA_VERSION})",
            hint=f"delete {path.parent} and run again, or use the version that wrote it",
        )
    return value


@dataclass(frozen=True)
class Artifact:
    """The folder of one recipe on one model, `OUT/<model>/<recipe>/`."""

    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint"

    @property
    def manifest_file(self) -> Path:
        return self.folder / "manifest.json"

    def manifest(self) -> dict[str, Any] | None:
        """The manifest, or None where no run has finished."""
        return _read(self.manifest_file, _MANIFEST_KEYS) if self.manifest_file.is_file() else None

    def finished(self) -> dict[str, Any]:
        """The manifest. Raises StageError where no run has finished."""
        record = self.manifest()
        if record is None:
            raise StageError(
                f"{self.folder} holds no finished checkpoint", hint=f"quantpress quantize {self.name} first"
            )
        return record

    def result(self, name: str) -> dict[str, Any] | None:
        """A stage's result (`accuracy`, `throughput`), or None; None too if it belongs to another checkpoint."""
        result, manifest = result_in(self.folder / f"{name}.json"), self.manifest()
        return result if result and manifest and result["checkpoint_digest"] == manifest["digest"] else None


def artifact_of(out: Path, model_name: str, recipe_name: str) -> Artifact:
    return Artifact(out / model_name / recipe_name)


def artifacts_of(model_folder: Path) -> list[Artifact]:
    """Every finished artifact of one model; what a killed run left behind is hidden and is none."""
    return [Artifact(path.parent) for path in sorted(model_folder.glob("[!.]*/manifest.json"))]


def file_table(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and sha256 of every file below `folder`, by relative name."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    known = digests.sha256_files(paths)
    return {str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": known[path]} for path in paths}


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """The paths at which two JSON objects differ."""
    found = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            found += differences(before, after, f"{prefix}{key}.")
        elif before != after:
            found.append(f"{prefix}{key}")
    return found
