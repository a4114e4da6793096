"""An artifact with real results and a checkpoint of few bytes, and the package made of it."""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from quantpress.artifact import manifest
from quantpress.artifact.manifest import Artifact, Manifest, artifact_of
from quantpress.errors import QuantpressError
from quantpress.model import headers, source, structure
from quantpress.model.source import Model
from quantpress.package import build
from quantpress.runtime import atomic

RESULTS = Path(__file__).parent / "results"
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def structures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What models are made of, kept for all tests: each is asked once."""
    return tmp_path_factory.mktemp("structures")


@pytest.fixture(autouse=True)
def asked_here(structures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The libraries are asked in this process: a worker of its own would import them anew, seconds for each model."""

    def answer(kept: Path, job: structure.StructureJob, _: str) -> structure.Structure:
        from quantpress.model.structure_worker import structure as ask

        file = structures / kept.name
        if not file.is_file():
            atomic.write_kept(file, ask(job).dump())
        return structure.Structure.model_validate(atomic.read_kept(file))

    monkeypatch.setattr(structure, "STRUCTURE", SimpleNamespace(answer=answer))


@pytest.fixture(scope="session")
def products(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """How fast this machine multiplies, kept for all tests: it is tried once."""
    return tmp_path_factory.mktemp("products")


@pytest.fixture
def quantpress(quantpress: Run, structures: Path, products: Path, tmp_path: Path) -> Run:
    """Runs the quantpress command, which finds what its model is made of, and how fast this machine is, as kept
    answers."""
    known = tmp_path / "cache" / "structures"

    def run(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        known.parent.mkdir(exist_ok=True)
        if not known.exists():
            known.symlink_to(structures)
            known.with_name("products").symlink_to(products)
        for before, folder in itertools.pairwise(arguments):
            path = tmp_path / folder
            if before == "--model" and (path / "config.json").is_file():
                with contextlib.suppress(QuantpressError, ValueError, OSError):
                    structure.structure_of(path, source.read_config(path), headers.read_if_any(path))
        return quantpress(*arguments, **options)

    return run


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
