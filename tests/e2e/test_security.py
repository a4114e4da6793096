"""Code that a model brings runs only if the command says so; a token in the environment stays there."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e
Run = Callable[..., "subprocess.CompletedProcess[str]"]
SECRET = "hf_averysecretvalue123"

CODE = """
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM
Path({marker!r}).write_text("ran")
class OwnConfig(LlamaConfig):
    model_type = "own"
class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
"""


def test_code_of_a_model_runs_only_with_the_option(two_layers: Path, tmp_path: Path, real: Run) -> None:
    model, marker = shutil.copytree(two_layers, tmp_path / "own"), tmp_path / "marker"
    config = json.loads((model / "config.json").read_text())
    own = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnForCausalLM"}
    config |= {"model_type": "own", "architectures": ["OwnForCausalLM"], "auto_map": own}
    (model / "config.json").write_text(json.dumps(config))
    (model / "own.py").write_text(CODE.format(marker=str(marker)))
    env = {"HF_HOME": str(tmp_path / "hf")}
    arguments = ("quantize", "rtn-w4a16", "--model", str(model), "--out", str(tmp_path / "out"))
    refused = real(*arguments, expect=2, env=env)
    assert "--trust-remote-code" in refused.stderr
    assert not marker.exists()
    assert not (tmp_path / "out" / "own" / "rtn-w4a16").exists()
    real(*arguments, "--trust-remote-code", env=env)
    assert marker.read_text() == "ran"
    assert (tmp_path / "out" / "own" / "rtn-w4a16" / "manifest.json").is_file()


def test_a_token_is_in_nothing_that_a_run_writes(two_layers: Path, tmp_path: Path, real: Run) -> None:
    arguments = ("rtn-w4a16", "--model", str(two_layers), "--out", str(tmp_path))
    printed = real("evaluate", *arguments, "--suite", "smoke", "--limit", "2", env={"HF_TOKEN": SECRET})
    real("report", *arguments[1:], env={"HF_TOKEN": SECRET})
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 10
    assert [path for path in written if SECRET.encode() in path.read_bytes()] == []
    assert SECRET not in printed.stdout + printed.stderr
