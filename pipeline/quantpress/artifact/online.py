"""What costs nothing to make: the model itself, which vLLM quantizes while it loads it (`--quantization METHOD`).

It is measured as a recipe's checkpoint is, and kept beside the recipes: <out>/<model>/online/<method>/.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from quantpress.artifact.results import Results, StageResult
from quantpress.runtime import digests

FOLDER = "online"
T = TypeVar("T", bound=StageResult)


def name_of(method: str) -> str:
    """What it is called where recipes are called by their names."""
    return f"{FOLDER}-{method}"


def folder_of(model_folder: Path, method: str) -> Path:
    return model_folder / FOLDER / method


def digest_of(model_digest: str, method: str) -> str:
    """What stands for a checkpoint's digest; which vLLM makes it is among a result's inputs."""
    return digests.sha256_json([FOLDER, model_digest, method])


def methods_in(model_folder: Path) -> list[str]:
    """The methods of which anything was measured."""
    found = {path.parent.name for path in (model_folder / FOLDER).glob("[!.]*/*.json")}
    return sorted(found)


def results_of(model_folder: Path, model_digest: str, method: str, kind: type[T]) -> Results[T]:
    """The results of one kind for this very model."""
    return Results(folder_of(model_folder, method), kind, digest_of(model_digest, method))
