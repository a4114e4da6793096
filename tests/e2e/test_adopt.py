"""Checkpoints of others, from known numbers: taken, described, and served by the real vLLM."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from conftest import Run
from support import SERVED

from quantpress.adopt.computed import untruthful_of
from quantpress.artifact.manifest import Artifact

pytestmark = pytest.mark.e2e
GROUP = 32


def _as_gptq(model: Path, folder: Path) -> None:
    """The model with its projections as GPTQ stores them: 4 bits around 8, in groups, eight rows to a number."""
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(model, folder)
    stored = {}
    for name, weight in load_file(model / "model.safetensors").items():
        if not name.endswith("_proj.weight"):
            stored[name] = weight
            continue
        layer, inputs = name.removesuffix(".weight"), weight.float().t().contiguous()
        grouped = inputs.reshape(-1, GROUP, inputs.shape[1])
        scales = grouped.abs().amax(1) / 7
        numbers = (grouped / scales[:, None]).round().clamp(-8, 7).reshape(inputs.shape).int() + 8
        shifts = torch.arange(0, 32, 4, dtype=torch.int32)
        packed = (numbers.reshape(-1, 8, inputs.shape[1]) << shifts[:, None]).sum(1, dtype=torch.int32)
        stored[f"{layer}.qweight"], stored[f"{layer}.scales"] = packed, scales.to(torch.bfloat16)
        # The format keeps zero points less one: 7 in every four bits.
        stored[f"{layer}.qzeros"] = torch.full((len(scales), inputs.shape[1] // 8), 0x77777777, dtype=torch.int32)
        stored[f"{layer}.g_idx"] = torch.arange(len(inputs), dtype=torch.int32) // GROUP
    save_file(stored, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {
        **{"quant_method": "gptq", "bits": 4, "group_size": GROUP, "sym": True, "desc_act": False},
        "meta": {"quantizer": ["gptqmodel:7.6.0"]},
    }
    (folder / "config.json").write_text(json.dumps(config))


def test_vllm_serves_a_gptq_checkpoint_or_says_why_it_does_not(two_layers: Path, tmp_path: Path, real: Run) -> None:
    _as_gptq(two_layers, tmp_path / "theirs")
    options = ("--as", "their-gptq", "--model", str(two_layers), "--target", "auto", "--out", str(tmp_path / "out"))
    has_kernels = SERVED == "gptq-w4a16"
    done = real("adopt", str(tmp_path / "theirs"), *options, "--json", expect=0 if has_kernels else 4)
    artifact = Artifact(tmp_path / "out" / two_layers.name / "their-gptq")
    if not has_kernels:
        assert "does not serve" in done.stderr
        assert artifact.manifest() is None
        return
    adopted = json.loads(done.stdout)["adopted"]
    assert (adopted["bits"], adopted["makers"]["gptqmodel"], adopted["vllm"][:1]) == ([4], "7.6.0", "0")
    assert "optimum" in str(untruthful_of(artifact))
    assert "as made" in real("verify", str(artifact.folder)).stdout


def _as_gguf(model: Path, path: Path) -> None:
    """The model in a GGUF file, its projections in Q8_0, with the model's tokenizer."""
    from gguf import GGMLQuantizationType, GGUFWriter, quants
    from gguf.constants import MODEL_ARCH
    from gguf.tensor_mapping import get_tensor_name_map
    from safetensors.torch import load_file

    config = json.loads((model / "config.json").read_text())
    tokenizer = json.loads((model / "tokenizer.json").read_text())["model"]
    heads, layers = config["num_attention_heads"], config["num_hidden_layers"]
    tokens = sorted(tokenizer["vocab"], key=tokenizer["vocab"].get)
    writer = GGUFWriter(path, "llama")
    writer.add_string("general.quantized_by", "somebody")
    writer.add_block_count(layers)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_dimension_count(config["hidden_size"] // heads)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * len(tokens))
    writer.add_token_merges([one if isinstance(one, str) else " ".join(one) for one in tokenizer["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    names = get_tensor_name_map(MODEL_ARCH.LLAMA, layers)
    for name, weight in load_file(model / "model.safetensors").items():
        kind = GGMLQuantizationType.Q8_0 if name.endswith("_proj.weight") else GGMLQuantizationType.F32
        numbers = quants.quantize(weight.float().numpy(), kind)
        writer.add_tensor(f"{names.get_name(name.removesuffix('.weight'))}.weight", numbers, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_file_is_adopted_as_what_its_weights_are_and_run(
    two_layers: Path, least_load: Path, tmp_path: Path, real: Run
) -> None:
    _as_gguf(two_layers, tmp_path / "theirs.gguf")
    options = ("--as", "their-gguf", "--model", str(two_layers), "--out", str(tmp_path / "out"))
    assert "--dequantize" in real("adopt", str(tmp_path / "theirs.gguf"), *options, expect=4).stderr
    done = real(
        "adopt",
        str(tmp_path / "theirs.gguf"),
        *options,
        "--dequantize",
        "--json",
        env={"QUANTPRESS_CACHE": str(tmp_path)},
    )
    adopted = json.loads(done.stdout)["adopted"]
    assert adopted["format"].startswith("GGUF ")
    assert (adopted["dequantized"], adopted["makers"], adopted["bits"]) == ("bfloat16", {"somebody": ""}, [])
    assert adopted["stored_bytes"] < (tmp_path / "theirs.gguf").stat().st_size
    # As a recipe is run; beside one it takes two servers more.
    real("run", "their-gguf", "--suite", "smoke", "--limit", "4", "--workload", str(least_load), *options[2:])
    (made,) = json.loads((tmp_path / "out" / two_layers.name / "report.json").read_text())["recipes"]
    assert made["name"] == "their-gguf"
    assert made["accuracy"]
    assert made["throughput"]
