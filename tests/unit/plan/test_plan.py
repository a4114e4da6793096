"""What a recipe means for one model, from headers alone."""

from collections.abc import Callable
from pathlib import Path

import pytest

from quantpress.errors import InputError
from quantpress.model import headers
from quantpress.model.headers import Tensor
from quantpress.model.layers import Layers
from quantpress.model.source import find_model
from quantpress.plan import resolve as plan
from quantpress.plan.resolve import plan_of
from quantpress.quantize.stage import check_checkpoint
from quantpress.recipe import recipe
from quantpress.recipe.loading import load_recipe

Make = Callable[..., Path]


def planned(folder: Path, *modifiers: dict[str, object]) -> plan.Plan:
    parsed = recipe.Recipe.model_validate({"name": "r", "description": "d", "modifiers": list(modifiers)})
    return plan_of(parsed, find_model(str(folder)))


@pytest.mark.parametrize(("hidden", "expected"), [(256, 128), (192, 64), (96, 32)])
def test_auto_group_size_is_the_largest_that_divides_every_layer(make_model: Make, hidden: int, expected: int) -> None:
    made = planned(make_model(hidden=hidden, intermediate=256), {"gptq": {"scheme": "W4A16"}})
    assert made.group_size == expected
    assert made.recipe.modifiers[0].gptq is not None
    assert made.recipe.modifiers[0].gptq.group_size == expected
    assert len(made.layers) == 14


def test_auto_looks_at_targeted_layers_only(make_model: Make) -> None:
    folder = make_model(hidden=128, intermediate=48)
    made = planned(folder, {"gptq": {"scheme": "W4A16", "ignore": ["lm_head", r"re:.*down_proj"]}})
    assert made.group_size == 128
    assert len(made.layers) == 12


def test_explicit_arguments_resolve_auto_too(make_model: Make) -> None:
    weights = {"num_bits": 4, "strategy": "group", "group_size": "auto"}
    assert planned(make_model(), {"rtn": {"weights": weights}}).group_size == 64


def test_channels_need_no_group_size(make_model: Make) -> None:
    assert planned(make_model(hidden=40, intermediate=56), {"rtn": {"scheme": "W8A8"}}).group_size is None


REFUSED = {
    "no group size fits": ({"hidden": 40}, {"scheme": "W4A16"}, "none of .128, 64, 32. divides the 40 input features"),
    "given one does not fit": ({"hidden": 64}, {"scheme": "W4A16", "group_size": 128}, "128 does not divide the 64"),
    "target matches nothing": ({}, {"scheme": "W8A8", "targets": ["re:.*query"]}, "'re:.*query' matches none of"),
    "ignore matches nothing": ({}, {"scheme": "W8A8", "ignore": ["re:.*gate$"]}, "'re:.*gate.' matches none of"),
    "all ignored": ({}, {"scheme": "W8A8", "ignore": ["Linear"]}, "the result would be a copy"),
}


@pytest.mark.parametrize("case", REFUSED, ids=str)
def test_what_cannot_work_is_refused_before_a_weight_is_read(case: str, make_model: Make) -> None:
    sizes, body, words = REFUSED[case]
    with pytest.raises(InputError, match=words):
        planned(make_model(**sizes), {"rtn": body})


def test_a_checkpoint_must_hold_exactly_the_planned_layers(
    make_model: Make, safetensors: Callable[[Path, dict[str, tuple[int, ...]]], None]
) -> None:
    folder = make_model()
    made = planned(folder, {"rtn": {"scheme": "W8A8"}})
    checkpoint = make_model("checkpoint")
    scales = {f"{name}.weight_scale": (1,) for name in made.layers}
    safetensors(checkpoint / "model.safetensors", scales)
    check_checkpoint(checkpoint, made)
    scales.pop(f"{made.layers[0]}.weight_scale")
    safetensors(checkpoint / "model.safetensors", {**scales, "lm_head.weight_scale": (1,)})
    with pytest.raises(Exception, match=r"14 layers.*not quantized: \['model.layers.0.*not planned: \['lm_head'\]"):
        check_checkpoint(checkpoint, made)
    safetensors(checkpoint / "model.safetensors", {"model.norm.weight": (1,)})
    with pytest.raises(Exception, match="the checkpoint has 0 quantized"):
        check_checkpoint(checkpoint, made)


def test_a_truncated_weight_file_is_refused(make_model: Make) -> None:
    path = make_model() / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(InputError, match="cut short or damaged"):
        headers.read(path)


@pytest.mark.parametrize("content", [b"", b"\x00" * 8, b"not safetensors at all", b"\xff" * 64])
def test_a_file_that_is_no_safetensors_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError, match="not a safetensors file"):
        headers.read(path)


def test_the_index_says_which_files_count(make_model: Make) -> None:
    folder = make_model()
    (folder / "consolidated.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    assert [path.name for path in headers.weight_files(folder)] == ["model.safetensors"]
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"x": "consolidated.safetensors"}}')
    with pytest.raises(InputError, match=r"holds its weights twice: model\.safetensors, which transformers loads"):
        headers.weight_files(folder)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"x": "model-00001-of-00001.safetensors"}}')
    with pytest.raises(InputError, match=r"names model-00001-of-00001\.safetensors, which is not there"):
        headers.read_folder(folder)


def test_a_model_of_convolutions_has_nothing_to_quantize() -> None:
    structure = Layers({"lm_head": (32, 64)}, ("transformer.h.0.attn.c_attn",))
    with pytest.raises(InputError, match="no Linear layers beside its output head"):
        plan.make_from(load_recipe("w8a8-dynamic"), {"x": Tensor("BF16", (32, 64), 4096)}, {}, structure)
