"""What a model is made of: by what is known of its tensors, wherever these lie, and in llmcompressor's own classes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quantpress.errors import InputError
from quantpress.model import headers
from quantpress.model.headers import Tensor
from quantpress.model.source import read_config
from quantpress.model.structure import StructureJob, structure_of

TEXT: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 64,
}
LLAMA4 = {
    "model_type": "llama4",
    "architectures": ["Llama4ForConditionalGeneration"],
    "text_config": {**TEXT, "intermediate_size_mlp": 64, "num_local_experts": 4, "interleave_moe_layer_step": 2},
    "vision_config": {
        "hidden_size": 32,
        "intermediate_size": 128,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "projector_input_dim": 32,
        "projector_output_dim": 32,
        "vision_output_dim": 32,
    },
}


def test_experts_of_llama_4_are_taken_apart(tmp_path: Path) -> None:
    """llmcompressor has a file of its own for them, which offloads by names of its own."""
    from quantpress.model.structure_worker import structure

    (tmp_path / "config.json").write_text(json.dumps(LLAMA4))
    found = structure(StructureJob(folder=str(tmp_path)))
    experts = "language_model.model.layers.1.feed_forward.experts"
    assert [found.linears[f"{experts}.{number}.up_proj"].outputs for number in range(4)] == [48] * 4
    assert [name for name in found.fused_experts if "layers.1" in name] == [
        f"{experts}.down_proj",
        f"{experts}.gate_up_proj",
    ]


def test_what_is_known_of_tensors_that_are_not_there_counts(make_model: Callable[..., Path]) -> None:
    """A model on the hub is planned by its weights' headers before these are fetched: the answer is kept for both."""
    folder = make_model()
    (folder / "model.safetensors").rename(folder / "on the hub")
    tensors = headers.read(folder / "on the hub")
    speculative = {"mtp.layers.0.mlp.up_proj.weight": Tensor("BF16", (128, 64), 2 * 128 * 64)}
    found = structure_of(folder, read_config(folder), tensors | speculative)
    assert found.not_loaded == list(speculative)
    assert found.tensors == {name: list(tensor.shape) for name, tensor in tensors.items()}


def test_a_tensor_that_the_hub_lacks_is_missed_before_it_is_fetched(make_model: Callable[..., Path]) -> None:
    folder = make_model()
    tensors = headers.read(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    del tensors["model.layers.1.mlp.up_proj.weight"]
    with pytest.raises(InputError, match=r"describes 1 tensors that its files do not hold: model\.layers\.1\.mlp"):
        structure_of(folder, read_config(folder), tensors)
