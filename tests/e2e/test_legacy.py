"""llmcompressor's own recipes: what we make of a file is what its parser makes of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quantpress.quantize.to_llmcompressor import modifiers_of
from quantpress.recipe.loading import load_recipe

pytestmark = pytest.mark.e2e
RECIPES = {
    "preset": "GPTQModifier: {scheme: W4A16, targets: Linear, ignore: [lm_head], dampening_frac: 0.05}",
    "groups": """GPTQModifier:
      ignore: [lm_head]
      config_groups:
        first: {targets: ['re:.*o_proj'], weights: {num_bits: 8, strategy: channel, type: int, symmetric: true}}
        second:
          targets: ['re:.*up_proj']
          weights: {num_bits: 4, group_size: 64, strategy: group, observer: mse}
          input_activations: null""",
    "kv cache": """QuantizationModifier:
      scheme: FP8_DYNAMIC
      kv_cache_scheme: {num_bits: 8, type: float, strategy: tensor, dynamic: false, symmetric: true}""",
    "nvfp4": "QuantizationModifier: {scheme: NVFP4, targets: [Linear], weight_observer: memoryless_mse}",
    "awq": "AWQModifier: {duo_scaling: both, n_grid: 7}\n    QuantizationModifier: {scheme: W4A16_ASYM}",
    "smoothquant": """SmoothQuantModifier:
      smoothing_strength: 0.8
      mappings: [[['re:.*q_proj', 're:.*k_proj'], 're:.*input_layernorm']]
    GPTQModifier: {scheme: W8A8, actorder: null}""",
    "spinquant": "SpinQuantModifier: {rotations: [R1, R2]}\n    QuantizationModifier: {scheme: {W8A8: [Linear]}}",
}
_NOT_COMPARED = {
    "config_groups",
    "scheme",
    "targets",
    "weight_observer",
    "index",
    "group",
    "observer",
    "transform_config",
}


def _facts(modifier: Any) -> dict[str, Any]:
    fields = type(modifier).model_fields
    facts = {name: str(getattr(modifier, name)) for name in fields if name not in _NOT_COMPARED}
    if "config_groups" in fields:
        groups = modifier.resolve_quantization_config().config_groups.values()
        # Not `format`: we say it beforehand, they find it when they save.
        facts["groups"] = [scheme.model_dump(mode="json", exclude={"format"}) for scheme in groups]
    return {"kind": type(modifier).__name__, **facts}


@pytest.mark.parametrize("name", RECIPES)
def test_we_read_a_recipe_as_llmcompressor_does(name: str, tmp_path: Path) -> None:
    from llmcompressor.recipe import Recipe

    path = tmp_path / "theirs.yaml"
    path.write_text(f"quant_stage:\n  quant_modifiers:\n    {RECIPES[name]}\n")
    theirs = Recipe.create_instance(str(path)).modifiers
    ours = modifiers_of(load_recipe(str(path)), None)
    assert [_facts(modifier) for modifier in ours] == [_facts(modifier) for modifier in theirs]


OLD = {
    "old-awq.yaml": "quant_stage:\n  quant_modifiers:\n    AWQModifier: {scheme: W4A16_ASYM, ignore: [lm_head]}\n",
    "old-gptq.json": json.dumps(
        {
            "q_stage": {
                "q_modifiers": {"GPTQModifier": {"scheme": "W8A8", "sequential_update": True, "ignore": ["lm_head"]}}
            }
        }
    ),
}


@pytest.mark.parametrize("name", list(OLD))
def test_a_recipe_of_an_older_release_is_run_as_a_file(
    name: str, two_layers: Path, tmp_path: Path, real: Callable[..., Any]
) -> None:
    (tmp_path / name).write_text(OLD[name])
    small = ("--set", "calibration.samples=2", "--set", "calibration.max_sequence_length=64")
    made = real("quantize", str(tmp_path / name), "--model", str(two_layers), "--out", str(tmp_path), *small, "--json")
    assert "older release" in made.stderr
    manifest = json.loads(made.stdout)
    assert manifest["quantized_layers"] == 14
    checkpoint = tmp_path / "two-layers" / name.partition(".")[0] / "checkpoint"
    group = json.loads((checkpoint / "config.json").read_text())["quantization_config"]["config_groups"]["group_0"]
    assert (group["weights"]["num_bits"], group["weights"]["symmetric"]) == ((4, False) if "awq" in name else (8, True))
