"""Tensors that transformers loads in another type are in the checkpoint as the model has them."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from quantpress.artifact.manifest import Account
from quantpress.errors import StageError
from quantpress.model import headers, source
from quantpress.plan.resolve import plan_of
from quantpress.quantize import account, retyped
from quantpress.recipe.loading import load_recipe
from quantpress.recipe.modifiers import Modifier, SmoothQuant

Tensors = dict[str, torch.Tensor]
ODD = torch.tensor([0.1, -0.0, 1e-40, 3.3895e38, float("nan"), float("-inf"), 1.00390625, 1.01171875])
TYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


@pytest.mark.parametrize("old", TYPES)
@pytest.mark.parametrize("new", TYPES)
def test_numbers_are_rounded_as_torch_rounds_them(old: str, new: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    numbers = torch.cat([ODD, torch.randn(5000) * torch.logspace(-30, 30, 5000)]).to(TYPES[old])
    wrong = numbers.to(TYPES[new], copy=True)
    wrong[10] = 7
    for name, made in (("same", numbers.to(TYPES[new])), ("other", wrong)):
        model, checkpoint = tmp_path / f"model-{name}", tmp_path / name
        for folder, tensor in ((model, numbers), (checkpoint, made)):
            folder.mkdir()
            save_file({"w": tensor}, folder / "model.safetensors")
        assert retyped.told_apart(model, checkpoint, {"w": "w"}) == ((["w"], []) if name == "same" else ([], ["w"]))


def _checkpoint(make_model: Callable[..., Path], tmp_path: Path) -> tuple[source.Model, Path, Tensors]:
    """A model with two tensors in 32 bits and one in float16, and its checkpoint as transformers saves it."""
    folder = make_model(tied=False)
    path = folder / "model.safetensors"
    tensors: Tensors = {name: torch.randn(tensor.shape).bfloat16() for name, tensor in load_file(path).items()}
    for name, kind in {"model.norm.weight": torch.float32, "model.embed_tokens.weight": torch.float32}.items():
        tensors[name] = torch.randn(tensors[name].shape, dtype=kind)
    tensors["model.layers.0.input_layernorm.weight"] = tensors["model.layers.0.input_layernorm.weight"].half()
    save_file(tensors, path)
    model = source.find_model(str(folder))
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    made = {name: tensor.bfloat16() for name, tensor in tensors.items()}
    scales = {
        f"{name}.weight_scale": torch.ones(3).bfloat16() for name in plan_of(load_recipe("w8a8-dynamic"), model).layers
    }
    save_file(made | scales, checkpoint / "model.safetensors", metadata={"format": "pt"})
    (checkpoint / "config.json").write_text('{"quantization_config": {"ignore": ["lm_head"]}}')
    return model, checkpoint, tensors


def test_what_nothing_changed_is_put_back_bit_for_bit(make_model: Callable[..., Path], tmp_path: Path) -> None:
    model, checkpoint, tensors = _checkpoint(make_model, tmp_path)
    plan = plan_of(load_recipe("w8a8-dynamic"), model)
    found = account.complete(checkpoint, model, plan)
    assert found == Account(kept=len(tensors) - 14, quantized=14)
    quantized = {f"{name}.weight" for name in plan.layers}
    before, after = headers.digests(model.path), headers.digests(checkpoint)
    assert {name: after[name] for name in before if name not in quantized} == {
        name: digest for name, digest in before.items() if name not in quantized
    }
    with safe_open(checkpoint / "model.safetensors", "pt") as file:  # as others read it, every tensor where it is
        assert all(
            torch.equal(file.get_tensor(name), tensor) for name, tensor in tensors.items() if name not in quantized
        )
    assert [path.name for path in checkpoint.iterdir() if path.name.endswith(".new")] == []


def test_what_a_modifier_changed_stays_changed(make_model: Callable[..., Path], tmp_path: Path) -> None:
    model, checkpoint, tensors = _checkpoint(make_model, tmp_path)
    path = checkpoint / "model.safetensors"
    made = load_file(path)
    made["model.norm.weight"] *= 2
    save_file(made, path, metadata={"format": "pt"})
    plan = plan_of(load_recipe("w8a8-dynamic"), model)
    with pytest.raises(StageError, match=r"1 tensors of the checkpoint are not the model's.*model\.norm\.weight"):
        account.complete(checkpoint, model, plan)
    recipe = plan.recipe.model_copy(update={"modifiers": [Modifier(smoothquant=SmoothQuant()), *plan.recipe.modifiers]})
    found = account.complete(checkpoint, model, plan_of(recipe, model))
    assert (found.changed, found.quantized) == (1, 14)
    assert torch.equal(load_file(path)["model.norm.weight"], made["model.norm.weight"])
    assert torch.equal(load_file(path)["model.embed_tokens.weight"], tensors["model.embed_tokens.weight"])
