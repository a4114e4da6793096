"""The table of schemes must say what compressed-tensors' presets say."""

import pytest

from quantpress.recipe.presets import SCHEMES


@pytest.mark.parametrize("name", SCHEMES)
def test_the_table_is_true(name: str) -> None:
    from compressed_tensors.quantization import preset_name_to_scheme

    preset, ours = preset_name_to_scheme(name, ["Linear"]), SCHEMES[name]
    weights, activations = preset.weights, preset.input_activations
    assert weights.num_bits == ours.weight_bits
    assert weights.symmetric == ours.symmetric
    assert str(weights.type) in (ours.kind, f"QuantizationType.{ours.kind.upper()}")
    assert weights.group_size == ours.group_size
    assert str(weights.strategy).lower().removeprefix("quantizationstrategy.").removeprefix("tensor_") == ours.strategy
    found = "none" if activations is None else ("dynamic" if activations.dynamic is True else "static")
    assert found == ours.activations
