"""A model that is quantized already, and calibration that goes wrong: what happened reaches the manifest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Run
from support import SMALL

pytestmark = pytest.mark.e2e
TIED = SMALL | {"tie_word_embeddings": True}
SETTINGS = ("calibration.samples=2", "calibration.max_sequence_length=64", "calibration.all_experts=false")


def _mixture_that_overflows(folder: Path, tokenizer: Path) -> None:
    """Experts in the first layer; in the second, an activation that is infinite in 16 bits."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(0)
    experts = {"num_experts": 4, "moe_intermediate_size": 64, "num_experts_per_tok": 2, "mlp_only_layers": [1]}
    config = AutoConfig.for_model("qwen3_moe", **TIED, **experts, head_dim=16)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float16)
    with torch.no_grad():
        for part in ("up_proj", "gate_proj"):
            weight = model.get_submodule(f"model.layers.1.mlp.{part}").weight
            weight.copy_((weight.float() * 1e7).clamp(-6e4, 6e4))
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)


def _quantized(real: Run, recipe: str, model: Path, folder: Path, *more: str) -> Any:
    """The manifest of what was made below `folder`."""
    options = ("--model", str(model), "--target", "any", "--out", str(folder), "--json", *more)
    return json.loads(real("quantize", recipe, *options, env={"QUANTPRESS_CACHE": str(folder.parent / "cache")}).stdout)


def test_integers_times_scales_are_calibrated_and_what_went_wrong_is_said(
    tmp_path: Path, embedded_model: Path, real: Run
) -> None:
    from safetensors.torch import load_file

    _mixture_that_overflows(tmp_path / "model", embedded_model)
    _quantized(real, "w8a8-dynamic", tmp_path / "model", tmp_path / "first")
    source = tmp_path / "first" / "model" / "w8a8-dynamic" / "checkpoint"
    options = [word for text in SETTINGS for word in ("--set", text)]
    made = _quantized(real, "gptq-w4a16", source, tmp_path / "second", "--dequantize", *options)
    assert made["model"]["dequantized"]["stored"] == "compressed-tensors, int-quantized"
    assert "dequantized from compressed-tensors, int-quantized to float16" in made["model"]["notes"][-1]
    counted = made["calibration"]["experts"]
    assert (counted["experts"], counted["all_experts"]) == (4, False)
    assert counted["few"]
    fallen, few = made["warnings"]
    assert "saw fewer than 128 calibration tokens" in few
    assert "could not invert the Hessians of 1 of 23 layers (model.layers.1.mlp.down_proj)" in fallen

    stored = load_file(source / "model.safetensors")
    [folder] = (tmp_path / "cache" / "models").glob("checkpoint-*-dequantized")
    weights = load_file(next(folder.glob("*.safetensors")))
    for name, weight in weights.items():
        scale = stored.get(f"{name}_scale")
        wanted = stored[name] if scale is None else (stored[name].float() * scale.float()).half()
        assert weight.equal(wanted), name
