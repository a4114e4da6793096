"""Weights that are quantized already become numbers again: their stored numbers times their scales, nothing lost."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from quantpress.errors import InputError, StageError
from quantpress.model.dequantize import DequantizeJob, without_quantization
from quantpress.model.dequantize_worker import dequantize, scheme_of
from quantpress.model.source import described_model, find_model
from quantpress.plan.resolve import plan_of
from quantpress.recipe.loading import load_recipe
from quantpress.runtime import locks, worker

Tensors = dict[str, Any]
LAYER = "model.layers.0.mlp.up_proj"


def _weights(folder: Path, tensors: Tensors, name: str = "model.safetensors") -> Path:
    from safetensors.torch import save_file

    folder.mkdir(exist_ok=True)
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, folder / name)
    return folder


def _undone(tmp_path: Path, tensors: Tensors, method: str, said: dict[str, Any] | None = None) -> Tensors:
    """The tensors that come of it, by name."""
    from safetensors.torch import load_file

    model, output = _weights(tmp_path / "model", tensors), tmp_path / "output"
    output.mkdir()
    job = {"model": model, "method": method, "quantization": said or {}, "dtype": "bfloat16", "output": output}
    dequantize(DequantizeJob.model_validate(job))
    index = json.loads((output / "model.safetensors.index.json").read_text())["weight_map"]
    made = {name: load_file(output / file)[name] for name, file in index.items()}
    assert sum(len(load_file(path)) for path in output.glob("*.safetensors")) == len(index)
    return made


def _said(form: str, **weights: Any) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": {"symmetric": True, "type": "int", **weights}}
    return {"quant_method": "compressed-tensors", "format": form, "config_groups": {"group_0": group}, "ignore": []}


def _equal(one: Any, other: Any) -> bool:
    import torch

    return one.dtype == torch.bfloat16 and torch.equal(one, other.bfloat16())


def test_integers_of_channels(tmp_path: Path) -> None:
    import torch

    integers, scale = torch.randint(-128, 128, (48, 64)).to(torch.int8), torch.rand(48, 1).bfloat16()
    kept = torch.randn(8).bfloat16()
    tensors = {f"{LAYER}.weight": integers, f"{LAYER}.weight_scale": scale, "mtp.norm.weight": kept}
    made = _undone(tmp_path, tensors, "compressed-tensors", _said("int-quantized", num_bits=8, strategy="channel"))
    assert set(made) == {f"{LAYER}.weight", "mtp.norm.weight"}
    assert _equal(made[f"{LAYER}.weight"], integers.float() * scale.float())
    assert torch.equal(made["mtp.norm.weight"], kept)


@pytest.mark.parametrize("zero", [None, 3])
def test_packed_integers_of_groups(zero: int | None, tmp_path: Path) -> None:
    import torch
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32

    integers, scale = torch.randint(-8, 8, (32, 64)).to(torch.int8), torch.rand(32, 2).bfloat16()
    parts = {"weight_packed": pack_to_int32(integers, 4), "weight_scale": scale, "weight_shape": torch.tensor([32, 64])}
    if zero is not None:
        zeros = torch.full((32, 2), zero, dtype=torch.int8)
        parts["weight_zero_point"] = pack_to_int32(zeros, 4, packed_dim=0)
    said = _said("pack-quantized", num_bits=4, strategy="group", group_size=32, symmetric=zero is None)
    made = _undone(tmp_path, {f"{LAYER}.{part}": tensor for part, tensor in parts.items()}, "compressed-tensors", said)
    wanted = (integers.float() - (zero or 0)) * scale.float().repeat_interleave(32, 1)
    assert list(made) == [f"{LAYER}.weight"]
    assert _equal(made[f"{LAYER}.weight"], wanted)


def test_floats_in_blocks_that_do_not_divide_the_weight(tmp_path: Path) -> None:
    """DeepSeek's way: kv_a_proj_with_mqa has 576 rows in blocks of 128."""
    import torch

    weight, scale = torch.randn(160, 72).to(torch.float8_e4m3fn), torch.rand(2, 1)
    other, its = torch.randn(160, 300).to(torch.float8_e4m3fn), torch.rand(2, 1, 3, 1)
    experts, scales = torch.randn(2, 128, 256).to(torch.float8_e4m3fn), torch.rand(2, 1, 2)
    tensors = {f"{LAYER}.weight": weight, f"{LAYER}.weight_scale_inv": scale}
    tensors |= {"modelopt.weight": other, "modelopt.weight_scale": its}
    tensors |= {"mtp.experts.up_proj": experts, "mtp.experts.up_proj_scale_inv": scales}
    made = _undone(tmp_path, tensors, "fp8", {"weight_block_size": [128, 128]})
    assert set(made) == {f"{LAYER}.weight", "modelopt.weight", "mtp.experts.up_proj"}
    spread = its[:, 0, :, 0].repeat_interleave(128, 0)[:160].repeat_interleave(128, 1)[:, :300]
    assert _equal(made["modelopt.weight"], other.float() * spread)
    assert _equal(made[f"{LAYER}.weight"], weight.float() * scale.repeat_interleave(128, 0)[:160])
    assert _equal(made["mtp.experts.up_proj"], experts.float() * scales.repeat_interleave(128, 2))


@pytest.mark.parametrize("shape", [(), (1,), (48,), (48, 1)])
def test_floats_with_a_scale_of_a_tensor_or_a_channel(shape: tuple[int, ...], tmp_path: Path) -> None:
    """ModelOpt's; the scales of activations and of the KV cache are no part of the model."""
    import torch

    weight, scale = torch.randn(48, 64).to(torch.float8_e4m3fn), torch.rand(shape)
    tensors = {f"{LAYER}.weight": weight, f"{LAYER}.weight_scale": scale, f"{LAYER}.input_scale": torch.tensor(0.1)}
    made = _undone(tmp_path, tensors | {"model.layers.0.self_attn.k_proj.k_scale": torch.tensor(0.1)}, "fp8")
    assert list(made) == [f"{LAYER}.weight"]
    assert _equal(made[f"{LAYER}.weight"], weight.float() * scale.reshape(-1, 1))


def test_floats_of_4_bits_as_gpt_oss_has_them(tmp_path: Path) -> None:
    import torch

    values = torch.tensor([0.0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
    codes, exponents = torch.randint(0, 16, (2, 48, 3, 32)), torch.randint(120, 131, (2, 48, 3))
    blocks = (codes[..., 0::2] | codes[..., 1::2] << 4).to(torch.uint8)
    name = "model.layers.0.mlp.experts.gate_up_proj"
    tensors = {
        f"{name}_blocks": blocks,
        f"{name}_scales": exponents.to(torch.uint8),
        f"{name}_bias": torch.randn(2, 48),
    }
    made = _undone(tmp_path, tensors, "mxfp4")
    wanted = (values[codes] * 2.0 ** (exponents[..., None] - 127)).reshape(2, 48, 96).transpose(1, 2)
    assert set(made) == {name, f"{name}_bias"}
    assert _equal(made[name], wanted)


def test_what_no_scale_explains_is_refused_by_its_name(tmp_path: Path) -> None:
    import torch

    weight = torch.randn(48, 64).to(torch.float8_e4m3fn)
    with pytest.raises(StageError, match=rf"cannot be dequantized: {LAYER}.weight is F8_E4M3"):
        _undone(tmp_path, {f"{LAYER}.weight": weight}, "fp8")


def test_an_order_of_columns_that_cannot_be_undone_is_refused(tmp_path: Path) -> None:
    import torch

    packed, scale = torch.zeros(4, 8, dtype=torch.int32), torch.ones(4, 2)
    tensors = {f"{LAYER}.weight_packed": packed, f"{LAYER}.weight_scale": scale}
    tensors[f"{LAYER}.weight_g_idx"] = torch.arange(64)
    with pytest.raises(StageError, match=f"{LAYER} is stored with weight_g_idx"):
        said = _said("pack-quantized", num_bits=4, strategy="group", group_size=32)
        _undone(tmp_path, tensors, "compressed-tensors", said)


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Runs the worker here, which is faster; returns the titles of its steps."""
    titles: list[str] = []

    def call(module: str, job: Mapping[str, Any], folder: Path, title: str, log: Path, processes: int) -> Any:
        titles.append(title)
        return dequantize(DequantizeJob.model_validate(job)).dump()

    monkeypatch.setattr(worker, "call_worker", call)
    monkeypatch.setenv("QUANTPRESS_CACHE", str(tmp_path / "cache"))
    return titles


def _modelopt(folder: Path) -> Path:
    import torch

    scale = {f"{LAYER}.weight_scale": torch.tensor(0.5)}
    _weights(folder, {f"{LAYER}.weight": torch.ones(48, 64).to(torch.float8_e4m3fn)} | scale)
    (folder / "hf_quant_config.json").write_text(json.dumps({"quantization": {"quant_algo": "FP8"}}))
    (folder / "processor_config.json").write_text("{}")
    return folder


def test_groups_by_class_are_told_apart() -> None:
    """In files a name tells no class: an embedding is one by the model's structure."""
    from compressed_tensors.quantization import QuantizationConfig

    groups = {
        kind: {"targets": [kind], "weights": {"num_bits": bits, "type": "int", "strategy": "channel"}}
        for kind, bits in (("Linear", 4), ("Embedding", 8))
    }
    config = QuantizationConfig.model_validate({"config_groups": groups, "format": "pack-quantized"})
    bits = [scheme_of(name, config, {"embed"})[0].weights.num_bits for name in ("embed", "q_proj")]
    assert bits == [8, 4]


def test_a_dequantized_model_says_what_it_was(make_model: Callable[..., Path], in_this_process: list[str]) -> None:
    folder = _modelopt(make_model())
    for look in (find_model, described_model):
        with pytest.raises(InputError, match="already quantized") as caught:
            look(str(folder))
        assert "--dequantize" in str(caught.value.hint)
    model = find_model(str(folder), dequantize=True)
    assert in_this_process == ["dequantizing tiny (hf_quant_config.json: ModelOpt FP8) to bfloat16"]
    assert model.name == "tiny"
    was = model.identity().dequantized
    assert was is not None
    assert (was.stored, was.dtype) == ("hf_quant_config.json: ModelOpt FP8", "bfloat16")
    assert model.path.name == f"tiny-{was.digest[:12]}-dequantized"
    assert "dequantized from hf_quant_config.json: ModelOpt FP8 to bfloat16" in model.identity().notes[-1]
    names = {path.name for path in model.path.iterdir()}
    assert {"config.json", "processor_config.json", "tokenizer.json"} < names
    assert "hf_quant_config.json" not in names
    assert find_model(str(folder), dequantize=True) == model
    assert len(in_this_process) == 1  # kept


def test_a_plan_needs_no_weight_dequantized(make_model: Callable[..., Path], in_this_process: list[str]) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    folder = make_model(tied=False)
    path = folder / "model.safetensors"
    layers = {name: weight for name, weight in load_file(path).items() if "_proj" in name}
    eight = {name: weight.to(torch.float8_e4m3fn) for name, weight in layers.items()}
    scales = {f"{name}_scale": torch.tensor(0.5) for name in layers}
    save_file(load_file(path) | eight | scales, path)
    (folder / "hf_quant_config.json").write_text(json.dumps({"quantization": {"quant_algo": "FP8"}}))
    described = plan_of(load_recipe("w8a8-dynamic"), described_model(str(folder), dequantize=True))
    assert in_this_process == []
    assert described == plan_of(load_recipe("w8a8-dynamic"), find_model(str(folder), dequantize=True))
    assert len(in_this_process) == 1


def test_what_is_not_quantized_is_described_as_it_is(make_model: Callable[..., Path]) -> None:
    folder = str(make_model())
    assert described_model(folder, dequantize=True) == described_model(folder)


def test_a_method_that_is_not_known_is_refused_all_the_same(make_model: Callable[..., Path]) -> None:
    folder = make_model()
    config = json.loads((folder / "config.json").read_text()) | {"quantization_config": {"quant_method": "awq"}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"already quantized \(awq\)") as caught:
        find_model(str(folder), dequantize=True)
    assert "cannot be dequantized" in str(caught.value.hint)
    assert "--dequantize" not in str(caught.value.hint)


def test_no_part_of_the_config_says_it_any_more() -> None:
    said = {"quant_method": "fp8"}
    config = {"a": 1, "quantization_config": said, "text_config": {"b": 2, "compression_config": said}}
    assert without_quantization(config) == {"a": 1, "text_config": {"b": 2}}


def test_two_runs_at_once_dequantize_once(make_model: Callable[..., Path], in_this_process: list[str]) -> None:
    folder = str(_modelopt(make_model()))
    made = find_model(folder, dequantize=True)
    aside = made.path.rename(made.path.with_name("aside"))
    with ThreadPoolExecutor() as pool, locks.turn(made.path):  # another run makes it
        waiting = pool.submit(find_model, folder, dequantize=True)
        time.sleep(0.3)
        aside.rename(made.path)
        locks_held = not waiting.done()
    assert locks_held
    assert waiting.result().path == made.path
    assert len(in_this_process) == 1
