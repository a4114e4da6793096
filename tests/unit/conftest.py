"""An artifact with real results and a checkpoint of few bytes, and the package made of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quantpress.artifact import manifest
from quantpress.artifact.manifest import Artifact, Manifest, artifact_of
from quantpress.model.source import Model
from quantpress.package import build

RESULTS = Path(__file__).parent / "results"


@pytest.fixture
def results() -> Callable[[str], Any]:
    """A result of the real run: manifest, accuracy, throughput, or the checkpoint's config."""
    return lambda name: json.loads((RESULTS / f"{name}.json").read_text())


@pytest.fixture
def made(tmp_path: Path) -> Artifact:
    artifact = artifact_of(tmp_path / "artifacts", "SmolLM2-135M-Instruct", "rtn-w4a16")
    artifact.checkpoint.mkdir(parents=True)
    shutil.copyfile(RESULTS / "config.json", artifact.checkpoint / "config.json")
    (artifact.checkpoint / "tokenizer.json").write_text("{}")
    for number in range(3):
        (artifact.checkpoint / f"model-{number}.safetensors").write_bytes(bytes([number]) * 100_000)
    recorded = Manifest.load(RESULTS / "manifest.json")
    recorded.model_copy(update={"files": manifest.file_table(artifact.checkpoint)}).save(artifact.manifest_file)
    (artifact.folder / "recipe.resolved.yaml").write_text("name: rtn-w4a16\n")
    for name in ("accuracy", "throughput"):
        shutil.copyfile(RESULTS / f"{name}.json", artifact.folder / f"{name}.json")
    return artifact


@pytest.fixture
def origin_model(tmp_path: Path) -> Model:
    """The folder of the unquantized model, as far as a package looks at it."""
    folder = tmp_path / "SmolLM2-135M-Instruct"
    folder.mkdir()
    return Model("SmolLM2-135M-Instruct", folder, str(folder), {})


@pytest.fixture
def pack(made: Artifact, origin_model: Model) -> Callable[..., Path]:
    """Makes the package and returns its folder."""

    def packed(**order: Any) -> Path:
        asked = build.Order(**order)
        build.build(made, origin_model, asked)
        return build.folder_of(made, asked)

    return packed
