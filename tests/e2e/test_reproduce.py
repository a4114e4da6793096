"""A rebuild where equal bits cannot be promised is held to a stated bound instead."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e
Run = Callable[..., "subprocess.CompletedProcess[str]"]
LAYER = "model.layers.1.mlp.down_proj"


def scale(weights: Path, factor: float) -> None:
    """Multiplies one layer's scales."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(weights)
    tensors[f"{LAYER}.weight_scale"] *= factor
    save_file(tensors, weights, metadata={"format": "pt"})


def test_another_machine_is_compared_within_a_bound(two_layers: Path, tmp_path: Path, real: Run) -> None:
    real("quantize", "gptq-w4a16", "--model", str(two_layers), "--out", str(tmp_path), "--set", "calibration.samples=2")
    folder = tmp_path / "two-layers" / "gptq-w4a16"
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["machine"]["processor"] = "another one"
    (folder / "manifest.json").write_text(json.dumps(manifest))

    weights = folder / "checkpoint" / "model.safetensors"
    scale(weights, 1.1)
    near = json.loads(real("reproduce", str(folder), "--json").stdout)
    assert (near["promised"], near["identical"], near["beyond_bound"]) == (False, False, {})
    assert near["why_not_promised"] == ["machine.processor"]
    assert near["differing_tensors"] == [f"{LAYER}.weight_scale"]
    assert near["same_calibration_tokens"]

    scale(weights, 2)
    far = real("reproduce", str(folder), expect=1)
    assert "1 of them by more than the stated bound" in far.stdout
    assert "machine.processor changed" in far.stdout
