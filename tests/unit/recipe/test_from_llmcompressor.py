"""llmcompressor's own recipe files: what runs, what is translated, and what its parser would skip in silence."""

import json
from pathlib import Path

import pytest

from quantpress.errors import InputError
from quantpress.recipe import recipe
from quantpress.recipe.loading import load_recipe
from quantpress.runtime import console

GPTQ = "GPTQModifier: {scheme: W4A16, targets: Linear, ignore: [lm_head]}"


def load(tmp_path: Path, body: str) -> recipe.Recipe:
    path = tmp_path / "their Recipe.yaml"
    path.write_text(body)
    return load_recipe(str(path))


def stage(*modifiers: str) -> str:
    return "test_stage:\n  quant_modifiers:\n" + "".join(f"    {modifier}\n" for modifier in modifiers)


def test_a_preset(tmp_path: Path) -> None:
    loaded = load(tmp_path, stage("SmoothQuantModifier: {smoothing_strength: 0.8}", GPTQ))
    assert [modifier.name for modifier in loaded.modifiers] == ["smoothquant", "gptq"]
    assert loaded.name == "their-recipe"
    assert loaded.modifiers[1].gptq is not None
    assert loaded.modifiers[1].gptq.scheme == "W4A16"


def test_json_means_the_same_as_yaml(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps({"s_stage": {"q_modifiers": {"GPTQModifier": {"scheme": "W4A16"}}}}))
    assert load_recipe(str(path)).modifiers == load(tmp_path, stage("GPTQModifier: {scheme: W4A16}")).modifiers


def test_its_defaults_are_kept_where_they_differ_from_ours(tmp_path: Path) -> None:
    body = load(tmp_path, stage("GPTQModifier: {scheme: W4A16, actorder: null}")).modifiers[0].gptq
    assert body is not None
    assert (body.ignore, body.actorder) == ([], "none")


def test_config_groups_become_groups(tmp_path: Path) -> None:
    weights = "{num_bits: 4, type: INT, strategy: group, group_size: 128, observer_kwargs: {}, zp_dtype: null}"
    groups = f"{{group_0: {{targets: ['re:.*q_proj'], weights: {weights}, input_activations: null}}}}"
    body = load(tmp_path, stage(f"QuantizationModifier: {{config_groups: {groups}}}")).modifiers[0].rtn
    assert body is not None
    assert body.groups is not None
    assert body.groups[0].weights is not None
    assert body.groups[0].weights.model_dump(exclude_defaults=True) == {
        "num_bits": 4,
        "strategy": "group",
        "group_size": 128,
    }


def test_schemes_by_name_and_kv_cache_and_observers(tmp_path: Path) -> None:
    body = load(
        tmp_path,
        stage(
            "QuantizationModifier: {scheme: {fp8: Linear}, weight_observer: mse, kv_cache_scheme: "
            "{num_bits: 8, type: float, strategy: tensor, dynamic: false, symmetric: true}}"
        ),
    ).modifiers[0]
    assert body.rtn is not None
    assert body.rtn.groups is not None
    assert (body.rtn.groups[0].scheme, body.rtn.groups[0].weight_observer) == ("FP8", "mse")
    assert body.rtn.kv_cache is not None


def test_floats_of_4_bits_are_their_presets(tmp_path: Path) -> None:
    four = "{num_bits: 4, type: float, strategy: tensor_group, group_size: 16, scale_dtype: torch.float8_e4m3fn}"
    groups = f"{{g: {{targets: [Linear], weights: {four}}}}}"
    body = load(tmp_path, stage(f"QuantizationModifier: {{config_groups: {groups}}}")).modifiers[0].rtn
    assert body is not None
    assert body.groups is not None
    assert body.groups[0].scheme == "NVFP4A16"


def test_floats_of_4_bits_with_other_activations_are_not_their_presets(tmp_path: Path) -> None:
    four = "{num_bits: 4, type: float, strategy: tensor_group, group_size: 16}"
    eight = "{num_bits: 8, type: float, strategy: token, dynamic: true}"
    groups = f"{{g: {{targets: [Linear], weights: {four}, input_activations: {eight}}}}}"
    with pytest.raises(InputError, match="strategy is 'tensor_group'"):
        load(tmp_path, stage(f"QuantizationModifier: {{config_groups: {groups}}}"))
    observed = four.replace("}", ", observer: memoryless_mse}")
    body = stage(f"QuantizationModifier: {{config_groups: {{g: {{targets: [Linear], weights: {observed}}}}}}}")
    rtn = load(tmp_path, body).modifiers[0].rtn
    assert rtn is not None
    assert rtn.groups is not None
    assert (rtn.groups[0].scheme, rtn.groups[0].weight_observer) == ("NVFP4A16", "memoryless_mse")


def test_what_llmcompressor_writes_beside_a_checkpoint_is_read(tmp_path: Path) -> None:
    cache = "{num_bits: 8, type: float, symmetric: true, group_size: null, strategy: tensor, block_structure: null, "
    cache += "dynamic: false, actorder: null, scale_dtype: null, zp_dtype: null, observer: minmax, observer_kwargs: {}}"
    written = f"{{requires_calibration_data: true, scheme: W8A8, kv_cache_scheme: {cache}}}"
    assert load(tmp_path, stage(f"QuantizationModifier: {written}")).modifiers[0].rtn is not None


OLD = {
    "AWQ with a scheme": ("AWQModifier: {scheme: W4A16, ignore: [lm_head], targets: [Linear]}", "with a scheme is of"),
    "AWQ with groups": (
        "AWQModifier: {config_groups: {g: {targets: [Linear], weights: {num_bits: 4, group_size: 64}}}}",
        "with a scheme is of",
    ),
    "sequential": (
        "GPTQModifier: {scheme: W4A16, sequential_update: true}",
        "sequential_update is of an older release",
    ),
}


@pytest.mark.parametrize("case", OLD, ids=str)
def test_older_recipes_are_translated_with_a_notice(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    body, notice = OLD[case]
    console.use()
    assert load(tmp_path, stage(body)).modifiers[0].role == "quantizes"
    assert notice in capsys.readouterr().err


def test_awq_as_it_is_today_prepares_for_the_next(tmp_path: Path) -> None:
    loaded = load(tmp_path, stage("AWQModifier: {}", "QuantizationModifier: {scheme: W4A16}"))
    assert [modifier.role for modifier in loaded.modifiers] == ["prepares", "quantizes"]
    with pytest.raises(InputError, match=r"no modifier quantizes"):
        load(tmp_path, stage("AWQModifier: {}"))


REFUSED = {
    "no stage": (f"quant_modifiers:\n  {GPTQ}\n", ":1:1:", "skips 'quant_modifiers' silently"),
    "no group": (f"s_stage:\n  modifiers:\n    {GPTQ}\n", ":2:3:", "skips 'modifiers' silently"),
    "a stage beside": (stage(GPTQ) + "quant:\n  a_modifiers: {}\n", ":4:1:", "skips 'quant' silently"),
    "unknown": (stage("GPTQModifer: {}"), ":3:5:", "did you mean 'GPTQModifier'"),
    "no body": (stage("GPTQModifier:"), ":3:5:", "has no body"),
    "no effect": (stage("MagnitudePruningModifier: {}"), ":3:5:", "does nothing in oneshot"),
    "field": (stage("GPTQModifier: {scheme: W4A16, blok_size: 3}"), ":3:35:", "did you mean 'block_size'"),
    "twice": (stage(GPTQ, GPTQ), ":4:5:", "duplicate key 'GPTQModifier'"),
    "in a group": (
        stage("GPTQModifier: {config_groups: {a: {targets: [Linear], weights: {num_bits: 9, strategy: channel}}}}"),
        ":3:69:",
        "num_bits",
    ),
}


@pytest.mark.parametrize("case", REFUSED, ids=str)
def test_what_its_parser_would_skip_or_take_is_an_error(case: str, tmp_path: Path) -> None:
    body, place, words = REFUSED[case]
    with pytest.raises(InputError) as caught:
        load(tmp_path, body)
    assert f"their Recipe.yaml{place}" in caught.value.message
    assert words in caught.value.message
