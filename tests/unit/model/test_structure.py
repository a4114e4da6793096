"""What a model is made of: by what is known of its tensors, wherever these lie, and in llmcompressor's own classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from quantpress.model.structure import StructureJob

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
