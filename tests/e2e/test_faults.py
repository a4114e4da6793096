"""What machines do to a run: a full disk, a read-only one, no rights, no memory. The old artifact survives them all."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from quantpress.artifact import upkeep
from quantpress.artifact.manifest import Artifact

pytestmark = pytest.mark.e2e
Run = Callable[..., "subprocess.CompletedProcess[str]"]
Faulty = Callable[..., "subprocess.CompletedProcess[str]"]

MOUNTS = ("--map-root-user", "--mount")
NOBODY = ("--user", "--map-user=1000")


def allowed(*namespaces: str) -> bool:
    return subprocess.run(["unshare", *namespaces, "true"], capture_output=True, check=False).returncode == 0


needs_mounts = pytest.mark.skipif(not allowed(*MOUNTS), reason="no user namespaces here to mount a small disk in")
needs_nobody = pytest.mark.skipif(not allowed(*NOBODY), reason="no user namespaces here to be an ordinary user in")

# The command without its look at the free space, so that the disk fills up while it works.
BLIND = """
import sys
from quantpress.cli import main as cli
from quantpress.runtime import atomic
from quantpress.runtime import disk
disk.require_space = lambda *_: None
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.fixture
def bash(two_layers: Path, tmp_path: Path, real_environment: dict[str, str]) -> Faulty:
    """Runs bash lines in namespaces of their own; `make_32` and `make_64` quantize to $out with that group size."""
    (tmp_path / "blind.py").write_text(BLIND)
    options = f"quantize rtn-w4a16 --model {two_layers} --out $out --set modifiers.0.rtn.group_size"
    functions = f"""
    out={tmp_path}/out; mkdir -p $out
    make_32() {{ {sys.executable} -m quantpress {options}=32; }}
    make_64() {{ {sys.executable} -m quantpress {options}=64; }}
    blindly_make_64() {{ {sys.executable} {tmp_path}/blind.py {options}=64; }}
    verify() {{ {sys.executable} -m quantpress verify --out $out; }}
    """

    def run(script: str, *namespaces: str) -> subprocess.CompletedProcess[str]:
        command = ["unshare", *namespaces, "bash", "-c", functions + script]
        return subprocess.run(command, env=real_environment, capture_output=True, text=True, timeout=300, check=False)

    return run


@needs_mounts
def test_a_disk_that_fills_up_while_the_checkpoint_is_written(bash: Faulty) -> None:
    done = bash(
        """
        mount -t tmpfs -o size=40m none $out && make_32 || exit 90
        head -c $(( $(df --output=avail -B1 $out | tail -1) - 5000000 )) /dev/zero > $out/filler
        blindly_make_64; code=$?
        rm $out/filler
        verify && ls -A $out/two-layers && exit $code
        """,
        *MOUNTS,
    )
    assert done.returncode == 4, done.stderr
    assert "o space left" in done.stderr
    assert "as made" in done.stdout
    assert "staging" not in done.stdout


@needs_mounts
def test_a_disk_that_is_too_small_is_seen_before_the_start(bash: Faulty) -> None:
    done = bash("mount -t tmpfs -o size=8m none $out; make_32", *MOUNTS)
    assert done.returncode == 4
    assert "GB needed" in done.stderr


@needs_mounts
def test_a_disk_that_became_read_only(bash: Faulty) -> None:
    done = bash(
        "mount -t tmpfs none $out; make_32 || exit 90; mount -o remount,ro $out; make_64; code=$?; verify; exit $code",
        *MOUNTS,
    )
    assert done.returncode == 4, done.stderr
    assert "is not a writable folder" in done.stderr
    assert "as made" in done.stdout


@needs_nobody
def test_a_model_file_without_rights(bash: Faulty, two_layers: Path, tmp_path: Path) -> None:
    weights = two_layers / "model.safetensors"
    mode = weights.stat().st_mode
    try:
        weights.chmod(0)
        done = bash("make_32", *NOBODY)
    finally:
        weights.chmod(mode)
    assert done.returncode in (2, 4)
    assert "Permission denied" in done.stderr
    assert str(weights) in done.stderr
    assert list((tmp_path / "out").iterdir()) == []


def test_a_model_file_that_was_cut_short_after_a_first_run(two_layers: Path, tmp_path: Path, real: Run) -> None:
    model = shutil.copytree(two_layers, tmp_path / "two-layers")
    arguments = ("quantize", "rtn-w4a16", "--model", str(model), "--out", str(tmp_path / "out"))
    real(*arguments)
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    done = real(*arguments, expect=2)
    assert "cut short or damaged" in done.stderr
    assert upkeep.verify(Artifact(tmp_path / "out" / "two-layers" / "rtn-w4a16")) == []


def test_too_little_memory(two_layers: Path, tmp_path: Path, real_environment: dict[str, str], real: Run) -> None:
    arguments = ["quantize", "smoothquant-gptq-w8a8", "--model", str(two_layers), "--out", str(tmp_path)]
    small = ["--set", "calibration.samples=2", "--set", "calibration.max_sequence_length=64"]
    real(*arguments, *small)
    large = ["--set", "calibration.samples=64", "--set", "calibration.max_sequence_length=4096"]
    command = [sys.executable, "-m", "quantpress", *arguments, *large, "--set", "calibration.batch_size=64"]
    command += ["--set", f"calibration.dataset={_long_text(tmp_path)}"]
    limited = ["bash", "-c", 'ulimit -v 9000000; exec "$@"', "bash", *command]
    done = subprocess.run(limited, env=real_environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 4, done.stderr
    assert "too little memory" in done.stderr
    assert "calibration.batch_size" in done.stderr
    assert upkeep.verify(Artifact(tmp_path / "two-layers" / "smoothquant-gptq-w8a8")) == []


def _long_text(folder: Path) -> Path:
    path = folder / "long.jsonl"
    path.write_text("".join(json.dumps({"text": f"{number} " * 5000}) + "\n" for number in range(100)))
    return path


@pytest.mark.parametrize(("value", "broken"), [("nan", True), ("inf", True), ("0", False)])
def test_weights_that_are_no_numbers(value: str, broken: bool, two_layers: Path, tmp_path: Path, real: Run) -> None:
    from safetensors.torch import load_file, save_file

    model = shutil.copytree(two_layers, tmp_path / "two-layers")
    tensors = load_file(model / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3] = float(value)
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    arguments = ("quantize", "w8a8-dynamic", "--model", str(model), "--out", str(tmp_path / "out"))
    done = real(*arguments, expect=2 if broken else 0)
    assert ("hold NaN or infinity: model.layers.1.mlp.up_proj.weight" in done.stderr) is broken
    assert (tmp_path / "out" / "two-layers" / "w8a8-dynamic").exists() is not broken
