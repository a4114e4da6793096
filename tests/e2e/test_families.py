"""Models that are more than a decoder of Linear layers: planned as they are made, and nothing of them lost."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Run
from support import SMALL

from quantpress.model import headers

pytestmark = pytest.mark.e2e
TEXT = SMALL | {"pad_token_id": 0}


def _image_text(folder: Path) -> None:
    """A vision tower, a projector, a language model, and a processor's files."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    rope = {"type": "mrope", "mrope_section": [2, 3, 3]}
    vision = {
        "depth": 1,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_heads": 4,
        "out_hidden_size": 64,
        "patch_size": 14,
        "fullatt_block_indexes": [0],
    }
    tokens = {name: 5 for name in ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")}
    config = Qwen2_5_VLConfig(
        text_config=TEXT | {"rope_scaling": rope}, vision_config=vision, tie_word_embeddings=False, **tokens
    )
    Qwen2_5_VLForConditionalGeneration(config).bfloat16().save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text('{"image_processor_type": "Qwen2VLImageProcessor"}')


def _fused_experts(folder: Path) -> None:
    """Mamba, attention, and experts that transformers keeps in tensors of three dimensions."""
    from transformers import AutoConfig, AutoModelForCausalLM

    mamba = {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 16, "mamba_n_groups": 1, "mamba_expand": 2}
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2, "shared_intermediate_size": 64}
    config = AutoConfig.for_model(
        "granitemoehybrid", **TEXT, **mamba, **experts, layer_types=["mamba", "attention"], tie_word_embeddings=True
    )
    AutoModelForCausalLM.from_config(config).bfloat16().save_pretrained(folder)


def _predicts_ahead(folder: Path) -> None:
    """A layer for speculative decoding, which transformers does not load."""
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import AutoConfig, AutoModelForCausalLM

    experts = {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
    config = AutoConfig.for_model(
        "glm4_moe", **TEXT, **experts, first_k_dense_replace=1, n_group=1, topk_group=1, num_nextn_predict_layers=1
    )
    AutoModelForCausalLM.from_config(config).bfloat16().save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    ahead = {name.replace(".1.", ".2.", 1): value.clone() for name, value in tensors.items() if ".layers.1." in name}
    ahead["model.layers.2.eh_proj.weight"] = torch.randn(64, 128).bfloat16()
    save_file(tensors | ahead, folder / "model.safetensors", metadata={"format": "pt"})


def _experts_with_names(folder: Path) -> None:
    """Experts that the files call by other names (w1, w2, w3) than llmcompressor does."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model("mixtral", **TEXT, num_local_experts=4, num_experts_per_tok=2)
    AutoModelForCausalLM.from_config(config).bfloat16().save_pretrained(folder)


# What each is, which tensors have to be in the checkpoint as they were, and how many layers are quantized: 7 of a
# language model's layer, 3 of each expert and of the shared one, 2 of a Mamba mixer.
FAMILIES: dict[str, tuple[Callable[[Path], None], str, int]] = {
    "image and text": (_image_text, "visual.", 14),
    "experts in three dimensions": (_fused_experts, "norm", 2 + 4 + 2 * (4 * 3 + 2)),
    "experts with names of their own": (_experts_with_names, "norm", 2 * (4 + 4 * 3)),
    "a layer for speculation": (_predicts_ahead, "model.layers.2.", 7 + 4 + 4 * 3 + 3),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_is_lost_and_what_is_planned_is_made(
    family: str, tmp_path: Path, embedded_model: Path, real: Run
) -> None:
    import torch
    from transformers import AutoTokenizer

    make, kept, quantized = FAMILIES[family]
    folder = tmp_path / "model"
    torch.manual_seed(0)
    make(folder)
    AutoTokenizer.from_pretrained(embedded_model).save_pretrained(folder)
    options = ("--model", str(folder), "--target", "any", "--out", str(tmp_path / "artifacts"), "--json")
    manifest = json.loads(real("quantize", "w8a8-dynamic", *options).stdout)
    assert manifest["quantized_layers"] == quantized
    checkpoint = tmp_path / "artifacts" / "model" / "w8a8-dynamic" / "checkpoint"
    before, after = headers.digests(folder), headers.digests(checkpoint)
    untouched = [name for name in before if kept in name]
    assert untouched
    assert {name: after.get(name) for name in untouched} == {name: before[name] for name in untouched}
    one_by_one = {name for name in before if ".experts.0." in name}
    assert one_by_one <= after.keys(), "vLLM loads experts by the names of their family's files"
    was, now = (json.loads((path / "config.json").read_text()) for path in (folder, checkpoint))
    assert now["architectures"] == was["architectures"]
    assert {path.name for path in folder.iterdir()} <= {path.name for path in checkpoint.iterdir()}


def _scaled_embeddings(folder: Path) -> None:
    """Embeddings of a class of their own, tied to the head."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model("gemma3_text", **TEXT, head_dim=16, tie_word_embeddings=True)
    AutoModelForCausalLM.from_config(config).bfloat16().save_pretrained(folder)


@pytest.mark.parametrize("make", [_scaled_embeddings, _image_text], ids=["tied", "beside a tower"])
def test_embeddings_are_quantized_as_planned(
    make: Callable[[Path], None], tmp_path: Path, embedded_model: Path, real: Run
) -> None:
    import torch
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import preset_name_to_scheme
    from safetensors.torch import load_file
    from transformers import AutoTokenizer

    folder = tmp_path / "model"
    torch.manual_seed(0)
    make(folder)
    AutoTokenizer.from_pretrained(embedded_model).save_pretrained(folder)
    recipe = tmp_path / "all.yaml"
    recipe.write_text(
        "name: all\ndescription: d\nmodifiers:\n- rtn: {scheme: W8A16, group_size: 32, targets: [Linear, Embedding]}\n"
    )
    options = ("--model", str(folder), "--out", str(tmp_path / "artifacts"), "--json")
    plan = json.loads(real("plan", str(recipe), *options[:2], "--json").stdout)
    manifest = json.loads(real("quantize", str(recipe), "--target", "any", *options).stdout)
    assert manifest["quantized_layers"] == 15
    assert manifest["bytes"]["checkpoint"] == plan["bytes"]["after"]
    made = load_file(tmp_path / "artifacts" / "model" / "all" / "checkpoint" / "model.safetensors")
    name = next(name for name in made if name.endswith("embed_tokens.weight_packed")).removesuffix(".weight_packed")
    scheme = preset_name_to_scheme("W8A16", ["Embedding"])
    scheme.weights.group_size = 32
    parts = {part: made[f"{name}.{part}"] for part in ("weight_packed", "weight_scale", "weight_shape")}
    weight = BaseCompressor.get_value_from_registry("pack-quantized").decompress(parts, scheme)["weight"]
    original = load_file(folder / "model.safetensors")[f"{name}.weight"]
    assert (weight.float() - original.float()).norm() < 0.02 * original.float().norm()
    assert torch.equal(made["lm_head.weight"], original if make is _scaled_embeddings else made["lm_head.weight"])
