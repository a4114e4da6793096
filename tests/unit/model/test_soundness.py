"""What is no whole, unquantized model is found from names and headers, before anything starts."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from quantpress.errors import InputError
from quantpress.model import headers, soundness
from quantpress.model.headers import Tensor
from quantpress.model.source import Model, described_model, find_model

Make = Callable[..., Path]
FLOAT = Tensor("BF16", (8, 8), 128)


def test_an_adapter_is_no_model(make_model: Make) -> None:
    folder = make_model()
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "org/base"}')
    with pytest.raises(InputError, match="holds an adapter") as caught:
        find_model(str(folder))
    assert "merge_and_unload" in str(caught.value.hint)


def test_an_adapter_beside_a_model_is_no_part_of_it(
    make_model: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUANTPRESS_CACHE", str(tmp_path / "cache"))
    folder = make_model()
    (folder / "adapter_model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "org/base"}')
    model = find_model(str(folder))
    assert model.name == folder.name
    assert not [path for path in model.path.iterdir() if path.name.startswith("adapter_")]
    assert (model.path / "model.safetensors").resolve() == (folder / "model.safetensors").resolve()
    assert "is no part of the model" in model.notes[-1]


@pytest.mark.parametrize("name", ["model-00001-of-00002.safetensors", "consolidated.safetensors"])
def test_weights_that_transformers_would_not_find(name: str, make_model: Make) -> None:
    folder = make_model()
    (folder / "model.safetensors").rename(folder / name)
    for look in (find_model, described_model):
        with pytest.raises(InputError, match=r"neither model.safetensors nor model.safetensors.index.json"):
            look(str(folder))


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("hf_quant_config.json", {"quantization": {"quant_algo": "FP8"}}),
        ("quantize_config.json", {"bits": 4, "quant_method": "gptq"}),
    ],
)
def test_what_another_quantizer_says_of_itself(file: str, content: object, make_model: Make) -> None:
    folder = make_model()
    (folder / file).write_text(json.dumps(content))
    with pytest.raises(InputError, match=f"already quantized \\({file}: (ModelOpt FP8|gptq)"):
        find_model(str(folder))


@pytest.mark.parametrize("where", ["quantization_config", "compression_config", "text_config"])
def test_what_the_config_says(where: str, make_model: Make) -> None:
    folder = make_model()
    config = json.loads((folder / "config.json").read_text())
    said = {"quant_method": "fp8"}
    config |= {where: {"quantization_config": said} if where == "text_config" else said}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"already quantized \(fp8\)"):
        find_model(str(folder))


STORED = {
    "int8 weight": {"model.layers.0.mlp.up_proj.weight": Tensor("I8", (8, 8), 64)},
    "fp8 in blocks": {"a.weight": FLOAT, "a.weight_scale_inv": Tensor("F32", (1, 1), 4)},
    "packed": {"a.weight_packed": Tensor("I32", (8, 1), 32)},
    "GPTQ": {"a.qweight": Tensor("I32", (8, 1), 32)},
    "bitsandbytes": {"a.weight": FLOAT, "a.SCB": Tensor("F32", (8,), 32)},
    "MXFP4": {"a.experts.gate_up_proj_blocks": Tensor("U8", (2, 8, 4, 16), 1024)},
}


@pytest.mark.parametrize("case", STORED)
def test_tensors_that_only_a_quantized_model_has(case: str, tmp_path: Path) -> None:
    assert soundness.quantization(tmp_path, {}, STORED[case]) is not None


def test_an_ordinary_model_is_let_through(tmp_path: Path) -> None:
    ordinary = {"a.weight": FLOAT, "a.logit_scale": FLOAT, "a.A_log": FLOAT, "ids": Tensor("I64", (8,), 64)}
    assert soundness.quantization(tmp_path, {"quantization_config": None}, ordinary) is None


FP8 = Tensor("F8_E4M3", (8, 8), 64)
GROUP = {"config_groups": {"group_0": {}}, "quant_method": "compressed-tensors"}
MXFP4 = {"quant_method": "mxfp4"}
UNDONE: dict[str, tuple[dict[str, object], dict[str, Tensor], str | None]] = {
    "by its tensors alone, FP8": ({}, {"a.weight": FP8, "a.weight_scale_inv": FLOAT}, "fp8"),
    "by its tensors alone, MXFP4": ({}, {"a_blocks": Tensor("U8", (2, 8, 4, 16), 1024), "a_scales": FLOAT}, "mxfp4"),
    "integers of which nothing is said": ({}, {"a.weight": Tensor("I8", (8, 8), 64), "a.weight_scale": FLOAT}, None),
    "packed": ({"quantization_config": GROUP | {"format": "pack-quantized"}}, {}, "compressed-tensors"),
    "as older releases wrap it": (
        {"compression_config": {"quantization_config": GROUP | {"format": "int-quantized"}}},
        {},
        "compressed-tensors",
    ),
    "sparse": ({"quantization_config": GROUP | {"format": "marlin-24"}}, {}, None),
    "rotated": ({"quantization_config": GROUP | {"format": "int-quantized", "transform_config": GROUP}}, {}, None),
    "ModelOpt NVFP4": ({"quantization_config": {"quant_method": "modelopt", "quant_algo": "NVFP4"}}, {}, None),
    "ModelOpt FP8": ({"quantization_config": {"quant_method": "modelopt", "quant_algo": "FP8"}}, {}, "fp8"),
    "bitsandbytes": ({"text_config": {"quantization_config": {"quant_method": "bitsandbytes"}}}, {}, None),
    "deep in the config": ({"a_config": {"text_config": {"compression_config": MXFP4}}}, {}, "mxfp4"),
}


@pytest.mark.parametrize("case", UNDONE)
def test_which_quantizations_can_be_undone(case: str, tmp_path: Path) -> None:
    config, tensors, method = UNDONE[case]
    found = soundness.quantization(tmp_path, config, tensors)
    assert found is not None
    assert found.method == method


@pytest.mark.parametrize("named", ["../private/w.safetensors", "{here}/private/w.safetensors", "linked.safetensors"])
def test_an_index_does_not_lead_out_of_the_folder(named: str, make_model: Make, tmp_path: Path) -> None:
    folder = make_model()
    (tmp_path / "private").mkdir()
    (folder / "model.safetensors").rename(tmp_path / "private" / "w.safetensors")
    (folder / "linked.safetensors").symlink_to("../private/w.safetensors")
    index = {"weight_map": {"model.norm.weight": named.format(here=tmp_path)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="leads out of its folder"):
        headers.weight_files(folder)


@pytest.mark.parametrize("name", ["LICENSE", "tokenizer_config.json", "templates", "config.json"])
def test_a_model_with_a_link_out_of_its_folder_is_refused(name: str, make_model: Make, tmp_path: Path) -> None:
    folder = make_model()
    (folder / name).unlink(missing_ok=True)
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "key").write_text("{}")
    (folder / name).symlink_to("../private" if name == "templates" else "../private/key")
    for find in (find_model, described_model):
        with pytest.raises(InputError, match="leads out of its folder"):
            find(str(folder))


def test_what_lies_in_folders_that_go_with_a_model_is_in_its_digest(make_model: Make) -> None:
    folder = make_model()
    (folder / "modules.json").write_text('[{"path": "1_Pooling"}]')
    for name in ("additional_chat_templates/tools.jinja", "1_Pooling/config.json", "else/config.json"):
        (folder / name).parent.mkdir()
        (folder / name).write_text("{}")
    before = Model("m", folder, "m", {}).digests()
    assert {"additional_chat_templates/tools.jinja", "1_Pooling/config.json"} < before.keys()
    assert "else/config.json" not in before
    (folder / "additional_chat_templates/tools.jinja").write_text("{{ messages }}")
    assert Model("m", folder, "m", {}).digests() != before


def test_shards_of_one_name_in_two_folders_have_a_digest_each(make_model: Make) -> None:
    folder = make_model()
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").unlink()
    for part in "ab":
        (folder / part).mkdir()
        (folder / part / "w.safetensors").write_bytes(weights + part.encode())
    index = {"weight_map": {"x": "a/w.safetensors", "y": "b/w.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    before = Model("m", folder, "m", {}).digests()
    assert {"a/w.safetensors", "b/w.safetensors"} < before.keys()
    for part in "ab":
        (folder / part / "w.safetensors").write_bytes(weights + b"c")
        after = Model("m", folder, "m", {}).digests()
        assert after != before
        before = after
