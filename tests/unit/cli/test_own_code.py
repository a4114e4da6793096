"""Models that bring Python code of their own: it runs where the user says so, in planning too."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., "subprocess.CompletedProcess[str]"]
CODE = """
from transformers import LlamaConfig, LlamaForCausalLM

class OwnConfig(LlamaConfig):
    model_type = "own"

class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
"""
OWN = {
    "model_type": "own",
    "architectures": ["OwnForCausalLM"],
    "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnForCausalLM"},
}
STORED = {"quant_method": "compressed-tensors", "format": "float-quantized", "config_groups": {}}


@pytest.fixture
def own(make_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model's folder, less its weights, with a class of its own."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = make_model("brings-code", hidden=256, intermediate=512)
    (folder / "model.safetensors").unlink()
    (folder / "own.py").write_text(CODE)
    (folder / "config.json").write_text(json.dumps(json.loads((folder / "config.json").read_text()) | OWN))
    return folder


@pytest.mark.parametrize(
    "command",
    [("plan", "rtn-w4a16"), ("plan", "rtn-w4a16", "--dequantize"), ("recipes", "suggest", "--target", "sm_90")],
    ids=["plan", "plan --dequantize", "suggest"],
)
def test_it_runs_only_where_it_is_trusted(command: tuple[str, ...], own: Path, quantpress: Run) -> None:
    if "--dequantize" in command:
        config = json.loads((own / "config.json").read_text())
        (own / "config.json").write_text(json.dumps({**config, "quantization_config": STORED}))
    asked = (*command, "--model", str(own))
    refused = quantpress(*asked)
    assert "transformers cannot build the model" in refused.stdout + refused.stderr
    planned = quantpress(*asked, "--trust-remote-code")
    assert planned.returncode == 0, planned.stderr
    assert "cannot build" not in planned.stdout + planned.stderr
