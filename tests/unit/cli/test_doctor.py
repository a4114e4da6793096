"""What `quantpress doctor` says, and when it says that the main job cannot run."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from quantpress.cli import installation, this_machine
from quantpress.errors import CapabilityError
from quantpress.runtime import environment, free_memory

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def sound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without a GPU on which nothing is missing; returns its vLLM's executable."""
    library = tmp_path / "vllm-env" / "lib" / "python3.11" / "site-packages"
    for name in ("vllm-0.32.0+cpu", "torch-2.13.0+cpu", "compressed_tensors-0.17.0"):
        (library / f"{name}.dist-info").mkdir(parents=True)
    executable = tmp_path / "vllm-env" / "bin" / "vllm"
    executable.parent.mkdir()
    for program in (executable, executable.with_name("python")):
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
    monkeypatch.setenv("QUANTPRESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(environment, "gpus", list)
    monkeypatch.setattr(free_memory, "available", lambda: 64 * 2**30)
    monkeypatch.setattr(this_machine, "_DISK_GB", 0.0)
    monkeypatch.setattr(this_machine.asking, "schemes", lambda vllm: {})
    return executable


def test_where_nothing_is_missing_the_main_job_can_run(sound: Path) -> None:
    found = this_machine.facts(str(sound))
    assert [problem for problem in found.problems if problem.blocks] == []
    assert found.versions["llmcompressor"]
    assert found.vllm
    assert found.vllm.packages == {"torch": "2.13.0+cpu", "compressed-tensors": "0.17.0"}
    said = this_machine.text(found)
    for words in (
        "64.0 are free",
        "Free on disk: ",
        "shows no GPU",
        "vLLM 0.32.0+cpu serves (",
        "can run here: make demo",
    ):
        assert words in said


@pytest.mark.parametrize(
    ("name", "what", "blocks"),
    [("llmcompressor", "llmcompressor is not installed", True), ("mlflow-skinny", None, False)],
)
def test_a_missing_package_is_named_with_its_command(
    name: str, what: str | None, blocks: bool, sound: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = installation._version
    monkeypatch.setattr(installation, "_version", lambda asked: None if asked == name else real(asked))
    found = this_machine.facts(str(sound))
    assert any(problem.blocks for problem in found.problems) is blocks
    said = this_machine.text(found)
    if what:
        assert f"  {what}\n    make setup" in said
        assert "cannot run here as it is" in said
    else:
        assert "mlflow-skinny not installed\n    .venv/bin/python -m pip install 'quantpress[mlflow]'" in said


def test_a_package_of_another_version_is_named(sound: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = installation._version
    monkeypatch.setattr(installation, "_version", lambda name: "4.40.0" if name == "transformers" else real(name))
    (problem,) = this_machine.facts(str(sound)).problems
    assert problem.what.startswith("transformers 4.40.0 is installed, quantpress is written for ")
    assert not problem.blocks


def test_a_vllm_that_cannot_be_loaded_blocks(sound: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: Path) -> None:
        raise CapabilityError("it cannot be asked: ImportError: libtorch.so")

    monkeypatch.setattr(this_machine.asking, "schemes", fails)
    (problem,) = this_machine.facts(str(sound)).problems
    assert (problem.what, problem.blocks) == ("it cannot be asked: ImportError: libtorch.so", True)
    assert "VLLM=" in problem.command
    assert ".venv-vllm" not in problem.command  # which is another one
    monkeypatch.setattr(this_machine, "our_environment", lambda: sound.parents[1])
    (problem,) = this_machine.facts(str(sound)).problems
    assert problem.command == "rm -r .venv-vllm && make setup"


def test_a_wrapper_that_stands_elsewhere_does_not_block(sound: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other commands take it: what it would say is in the tables."""
    monkeypatch.setattr(this_machine.asking, "schemes", lambda vllm: pytest.fail("it cannot be asked"))
    sound.with_name("python").unlink()
    (problem,) = this_machine.facts(str(sound)).problems
    assert "there is no Python beside" in problem.what
    assert not problem.blocks


def test_too_little_memory_and_disk_block(sound: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(free_memory, "available", lambda: 2**30)
    monkeypatch.setattr(this_machine, "_DISK_GB", 1e9)
    said = [problem.what for problem in this_machine.facts(str(sound)).problems if problem.blocks]
    assert any("two servers side by side need" in what for what in said)
    assert any("the main job on the embedded model needs" in what for what in said)


def test_gpus_are_named_with_their_compute_capability(sound: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "gpus", lambda: ["NVIDIA L4, 23034 MiB"])
    monkeypatch.setattr(environment, "compute_capabilities", lambda: ["8.9"])
    monkeypatch.setattr(this_machine.hardware, "this_machine", lambda _: "sm_89")
    monkeypatch.setattr(installation, "_version", lambda name: "2.13.0+cpu" if name == "torch" else None)
    found = this_machine.facts(str(sound))
    said = this_machine.text(found)
    assert "GPUs: NVIDIA L4, 23034 MiB (compute capability 8.9); vLLM's kernels are those of sm_89." in said
    assert "torch 2.13.0+cpu is built for CPUs, and cannot use this GPU" in said
    assert "vLLM 0.32.0+cpu is built for CPUs, and this machine has a GPU\n    make setup VLLM_BUILD=cuda" in said
    assert found.serves["FP8 dynamic"].kernel == "CUTLASS FP8"


def test_a_gpu_that_is_not_in_the_table_is_said(sound: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(_: str | None) -> str:
        raise CapabilityError("compute capability 6.1 is not in the table", hint="the table begins with sm_75")

    monkeypatch.setattr(this_machine.hardware, "this_machine", unknown)
    found = this_machine.facts(str(sound))
    assert found.target == "unknown"
    assert "compute capability 6.1 is not in the table" in this_machine.text(found)


@pytest.mark.parametrize("flags", [[], ["--json"]], ids=["words", "json"])
def test_without_vllm_the_exit_code_is_4_and_everything_is_said(flags: list[str], quantpress: Run) -> None:
    done = quantpress("doctor", "--vllm", "/no/vllm", *flags)
    assert done.returncode == 4
    assert "error: /no/vllm is not an executable\n  next: make setup" in done.stderr
    if flags:
        problems = json.loads(done.stdout)["problems"]
        assert {"what": "/no/vllm is not an executable", "blocks": True}.items() <= problems[0].items()
    else:
        assert "cannot run here as it is" in done.stdout
        assert "W4A16" in done.stdout


def test_files_that_were_read_lately_leave_the_memory_of_a_container_free(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text(f"{2**20}\n")
    (tmp_path / "memory.current").write_text(f"{2**20}\n")
    (tmp_path / "memory.stat").write_text(f"anon {2**18}\ninactive_file {2**19}\n")
    assert free_memory.available(tmp_path) == 2**19
    (tmp_path / "memory.max").write_text("max\n")
    assert free_memory.available(tmp_path) > 2**20
