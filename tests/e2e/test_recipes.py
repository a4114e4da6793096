"""Every shipped recipe through the real llmcompressor, on a two-layer Llama made here: fast, and real tensors."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from quantpress import headers, shipped

pytestmark = pytest.mark.e2e
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.mark.parametrize("name", shipped.names("recipes"))
def test_a_shipped_recipe_makes_the_checkpoint_it_names(name: str, two_layers: Path, tmp_path: Path, real: Run) -> None:
    recipe = json.loads(real("recipes", "validate", name, "--json").stdout)[name]
    small = ["--set", "calibration.samples=2", "--set", "calibration.max_sequence_length=64"]
    made = real(
        *("quantize", name, "--model", str(two_layers), "--out", str(tmp_path), "--json"),
        *(small if "calibration" in recipe else []),
    )
    manifest = json.loads(made.stdout)
    assert [warning for warning in manifest["warnings"] if "fewer" in warning] if "calibration" in recipe else True
    tensors = headers.read_folder(tmp_path / "two-layers" / name / "checkpoint")
    config = json.loads((tmp_path / "two-layers" / name / "checkpoint" / "config.json").read_text())
    group = config["quantization_config"]["config_groups"]["group_0"]
    assert sum(tensor.endswith(".weight_scale") for tensor in tensors) == manifest["quantized_layers"] == 14
    assert "lm_head.weight_scale" not in tensors
    if "w4a16" in name:
        assert (group["weights"]["num_bits"], group["weights"]["group_size"], manifest["group_size"]) == (4, 64, 64)
        assert group["input_activations"] is None
        assert group["weights"]["symmetric"] is (name != "awq-w4a16")
    else:
        assert (group["weights"]["num_bits"], group["weights"]["strategy"]) == (8, "channel")
        assert group["input_activations"]["num_bits"] == 8
        assert group["input_activations"]["dynamic"] is ("static" not in name)
        assert any(tensor.endswith(".input_scale") for tensor in tensors) is ("static" in name)
    again = json.loads(real("reproduce", str(tmp_path / "two-layers" / name), "--json").stdout)
    assert again["promised"]
    assert again["identical"]
    assert not list((tmp_path / "two-layers").glob(".*staging*"))
