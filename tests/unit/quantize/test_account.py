"""What a checkpoint lacks of its model is copied, or the checkpoint is refused."""

import json
import struct
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from quantpress.artifact.manifest import Account
from quantpress.errors import StageError
from quantpress.model import headers, source
from quantpress.model.source import Model
from quantpress.model.structure import Structure
from quantpress.plan.resolve import Plan, plan_of
from quantpress.quantize import account
from quantpress.recipe.loading import load_recipe
from quantpress.recipe.modifiers import Modifier, SmoothQuant

Save = Callable[[Path, dict[str, tuple[int, ...]]], None]


@pytest.fixture
def model(make_model: Callable[..., Path]) -> Model:
    return source.find_model(str(make_model(tied=False)))


@pytest.fixture
def plan(model: Model) -> Plan:
    return plan_of(load_recipe("w8a8-dynamic"), model)


@pytest.fixture
def checkpoint(model: Model, plan: Plan, tmp_path: Path, safetensors: Save) -> Path:
    """What llmcompressor would write: each planned layer with its scale."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    shapes = {name: tensor.shape for name, tensor in headers.read_folder(model.path).items()}
    safetensors(folder / "model.safetensors", shapes | {f"{name}.weight_scale": (1,) for name in plan.layers})
    (folder / "config.json").write_text(json.dumps({"quantization_config": {"ignore": ["lm_head"]}}))
    return folder


def _asked(monkeypatch: pytest.MonkeyPatch, loaded: list[str], fused: list[str]) -> None:
    answer = Structure(
        model_class="C",
        linears={},
        others={},
        tied=None,
        tensors={name: [1] for name in loaded},
        fused_experts=fused,
        left_alone={},
    )
    monkeypatch.setattr(account, "structure_of", lambda *_: answer)


def _grown(model: Model, save: Save, more: dict[str, tuple[int, ...]]) -> None:
    shapes = {name: tensor.shape for name, tensor in headers.read_folder(model.path).items()}
    save(model.path / "model.safetensors", shapes | more)


def test_side_files_are_kept(checkpoint: Path, model: Model, plan: Plan) -> None:
    for name in ("processor_config.json", "preprocessor_config.json", "LICENSE", "modeling_x.py", "pytorch_model.bin"):
        (model.path / name).write_text(name)
    parts = ("1_Pooling/config.json", "2_Dense/model.safetensors", "2_Dense/pytorch_model.bin", "onnx/model.onnx")
    for name in (*parts, "additional_chat_templates/tools.jinja"):
        (model.path / name).parent.mkdir(exist_ok=True)
        (model.path / name).write_text(name)
    named = [{"path": ""}, {"path": "1_Pooling"}, {"path": "2_Dense"}, {"path": "../elsewhere"}]
    (model.path / "modules.json").write_text(json.dumps(named))
    account.complete(checkpoint, model, plan)
    kept = {path.relative_to(checkpoint).as_posix() for path in checkpoint.rglob("*")}
    assert {"processor_config.json", "preprocessor_config.json", "LICENSE"} <= kept
    assert {*parts[:2], "additional_chat_templates/tools.jinja", "modules.json"} <= kept
    assert not {*parts[2:], "onnx"} & kept
    assert not {"modeling_x.py", "pytorch_model.bin"} & kept
    account.complete(checkpoint, replace(model, trust_remote_code=True), plan)
    assert (checkpoint / "modeling_x.py").read_text() == "modeling_x.py"


def test_layers_for_speculative_decoding_are_kept_bit_for_bit(
    checkpoint: Path, model: Model, plan: Plan, safetensors: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    _asked(monkeypatch, loaded=[], fused=[])
    several = "mtp.layers.0.mlp.experts.gate_up_proj"  # experts in one tensor, which is called no weight
    _grown(model, safetensors, {"mtp.fc.weight": (64, 64), "mtp.norm.weight": (64,), several: (2, 64, 64)})
    account.complete(checkpoint, model, plan)
    made, wanted = headers.digests(checkpoint), headers.digests(model.path)
    assert {name: made[name] for name in ("mtp.fc.weight", "mtp.norm.weight")} == {
        name: wanted[name] for name in ("mtp.fc.weight", "mtp.norm.weight")
    }
    index = json.loads((checkpoint / account.INDEX).read_text())
    assert index["weight_map"]["mtp.fc.weight"] == account.NOT_LOADED
    assert index["weight_map"]["model.norm.weight"] == "model.safetensors"
    config: dict[str, Any] = json.loads((checkpoint / "config.json").read_text())
    assert config["quantization_config"]["ignore"] == [
        *("lm_head", "mtp.fc", "mtp.norm"),
        r"re:^mtp\.layers\.0\.mlp\.experts\..*",
    ]


def test_what_transformers_loads_and_the_checkpoint_lacks_is_refused(
    checkpoint: Path, model: Model, plan: Plan, safetensors: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    _asked(monkeypatch, loaded=["visual.patch.weight"], fused=[])
    _grown(model, safetensors, {"visual.patch.weight": (64, 64)})
    with pytest.raises(StageError, match=r"1 tensors of the model are in no file of the checkpoint: visual"):
        account.complete(checkpoint, model, plan)


def test_experts_that_the_checkpoint_has_one_by_one_are_not_missed(
    checkpoint: Path, model: Model, plan: Plan, safetensors: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    fused = "model.layers.0.mlp.experts.gate_up_proj"
    _asked(monkeypatch, loaded=[fused], fused=[fused])
    _grown(model, safetensors, {fused: (2, 64, 64)})
    account.complete(checkpoint, model, plan)
    assert not (checkpoint / account.NOT_LOADED).exists()


def test_thousands_of_experts_that_are_left_alone_are_listed_in_no_time(checkpoint: Path, plan: Plan) -> None:
    stored = {f"m.experts.{number}.up_proj": f"m.experts.{number}.w3" for number in range(10_000)}
    config = {"quantization_config": {"ignore": list(stored)}}
    (checkpoint / "config.json").write_text(json.dumps(config))
    started = time.monotonic()
    account._ignore_under_both_names(checkpoint, replace(plan, structure=replace(plan.structure, stored=stored)))
    assert time.monotonic() - started < 1
    made = json.loads((checkpoint / "config.json").read_text())["quantization_config"]["ignore"]
    assert set(made) == {*stored, *stored.values()}


def test_every_tensor_is_accounted_for(checkpoint: Path, model: Model, plan: Plan) -> None:
    found = account.complete(checkpoint, model, plan)
    assert found == Account(kept=len(headers.read_folder(model.path)) - 14, quantized=14)


def test_a_tensor_that_nothing_changes_is_the_models(checkpoint: Path, model: Model, plan: Plan) -> None:
    path = checkpoint / "model.safetensors"
    raw = bytearray(path.read_bytes())
    (length,) = struct.unpack("<Q", raw[:8])
    start = 8 + length + json.loads(raw[8 : 8 + length])["model.norm.weight"]["data_offsets"][0]
    raw[start] ^= 1
    path.write_bytes(raw)
    with pytest.raises(StageError, match=r"1 tensors of the checkpoint are not the model's.*model\.norm\.weight"):
        account.complete(checkpoint, model, plan)
    rescaled = plan.recipe.model_copy(
        update={"modifiers": [Modifier(smoothquant=SmoothQuant()), *plan.recipe.modifiers]}
    )
    found = account.complete(checkpoint, model, replace(plan, recipe=rescaled))
    assert (found.changed, found.quantized) == (1, 14)
