"""An artifact with real results and a checkpoint of few bytes, and the package made of it."""

from __future__ import annotations

import contextlib
import contextvars
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from quantpress.artifact import manifest
from quantpress.artifact.manifest import Artifact, Manifest, artifact_of
from quantpress.cli import main
from quantpress.model import structure
from quantpress.model.source import Model
from quantpress.package import build
from quantpress.runtime import atomic

PATIENCE = 120  # seconds
RESULTS = Path(__file__).parent / "results"
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for answers that all tests share, those of other processes of this run too."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "answers"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def structures(answers: Path) -> Path:
    """What models are made of, kept for all tests: each is asked once."""
    (answers / "structures").mkdir(exist_ok=True)
    return answers / "structures"


@pytest.fixture(autouse=True)
def asked_here(structures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The libraries are asked in this process: a worker of its own would import them anew, seconds for each model."""

    def answer(kept: Path, job: structure.StructureJob, _: str) -> structure.Structure:
        from quantpress.model.structure_worker import structure as ask

        file = structures / kept.name
        if not file.is_file():
            with contextlib.redirect_stdout(sys.stderr):  # as a worker's, and not that of the command which asks
                atomic.write_kept(file, ask(job).dump())
        return structure.Structure.model_validate(atomic.read_kept(file))

    monkeypatch.setattr(structure, "STRUCTURE", SimpleNamespace(answer=answer))


@pytest.fixture(scope="session")
def products(answers: Path) -> Path:
    """How fast this machine multiplies, kept for all tests: it is tried once."""
    (answers / "products").mkdir(exist_ok=True)
    return answers / "products"


@pytest.fixture
def quantpress(products: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the quantpress command in an empty folder, offline, and in this process: another one takes longer to start
    than most commands. How fast this machine is, it finds as a kept answer."""

    def run(
        *arguments: str, env: dict[str, str] | None = None, cwd: Path = tmp_path
    ) -> subprocess.CompletedProcess[str]:
        environ = {"QUANTPRESS_CACHE": str(tmp_path / "cache"), **(env or {})}
        known = Path(environ["QUANTPRESS_CACHE"]) / "products"
        known.parent.mkdir(exist_ok=True)
        if not known.exists():
            known.symlink_to(products)
        stdout, stderr = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
        with monkeypatch.context() as here:
            here.chdir(cwd)
            for name, value in environ.items():
                here.setenv(name, value)
            here.setattr(sys, "stdout", stdout)
            here.setattr(sys, "stderr", stderr)
            code = contextvars.copy_context().run(_exit_code, arguments)
        said = [stream.buffer.getvalue().decode() for stream in (stdout, stderr)]
        return subprocess.CompletedProcess(arguments, code, *said)

    return run


def _exit_code(arguments: tuple[str, ...]) -> int:
    """Of a command that gets as long as one that is a process. Handlers of signals are put back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGALRM)}
    signal.signal(signal.SIGALRM, _took_too_long)
    signal.alarm(PATIENCE)
    try:
        return main.main(arguments)
    except SystemExit as stop:  # argparse's
        return int(stop.code or 0)
    finally:
        signal.alarm(0)
        for number, handler in before.items():
            signal.signal(number, handler)


def _took_too_long(*_: object) -> None:
    pytest.fail(f"the command took more than {PATIENCE} s")  # no Exception, which the command would explain


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
