"""Tables that stand for libraries: shapes from a config, and llmcompressor's mappings."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from quantpress.model import architecture, headers
from quantpress.model.source import find_model
from quantpress.plan import mappings

pytestmark = pytest.mark.e2e
SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 128,
    "pad_token_id": 0,
}
EXPERTS = {"num_experts": 4, "moe_intermediate_size": 48, "num_experts_per_tok": 2}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"tie_word_embeddings": False, "attention_bias": True, "mlp_bias": True},
    "mistral": {"head_dim": 32},
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {"head_dim": 32},
    "granite": {},
    "gemma2": {"head_dim": 32},
    "phi3": {},
    "mixtral": {"num_local_experts": 4},
    "qwen2_moe": {**EXPERTS, "shared_expert_intermediate_size": 80},
    "qwen3_moe": {**EXPERTS, "mlp_only_layers": [0]},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_shapes_from_a_config_are_those_of_the_checkpoint(family: str, tmp_path: Path) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(family, **SIZES, **FAMILIES[family])
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(tmp_path)
    saved = architecture_config(tmp_path)
    real = headers.read_folder(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "aside")
    found = architecture.tensors(tmp_path, saved)
    assert {name: tensor.shape for name, tensor in found.items()} == {name: t.shape for name, t in real.items()}
    assert sum(tensor.nbytes for tensor in found.values()) == sum(tensor.nbytes for tensor in real.values())


def architecture_config(folder: Path) -> dict[str, Any]:
    from quantpress.model import source as model

    return model.read_config(folder)


def _plain(pattern: str) -> str:
    return re.sub(r"\$$", "", pattern.removeprefix("re:").removeprefix(".*")).replace("\\.", ".")


def test_our_tables_of_mappings_are_llmcompressors() -> None:
    from llmcompressor.modifiers.transform.awq.mappings import AWQ_MAPPING_REGISTRY, default_mappings
    from llmcompressor.modifiers.transform.smoothquant.utils import DEFAULT_SMOOTHQUANT_MAPPINGS, MAPPINGS_REGISTRY

    theirs = {
        "awq": {name: [(m.smooth_layer, m.balance_layers) for m in maps] for name, maps in AWQ_MAPPING_REGISTRY.items()}
        | {"Unheard": [(m.smooth_layer, m.balance_layers) for m in default_mappings]},
        "smoothquant": {
            name: [(m.smooth_layers, m.balance_layers) for m in maps] for name, maps in MAPPINGS_REGISTRY.items()
        }
        | {"Unheard": [(m.smooth_layers, m.balance_layers) for m in DEFAULT_SMOOTHQUANT_MAPPINGS]},
    }
    for algorithm, table in theirs.items():
        for name, maps in table.items():
            ours = mappings.of_architecture(algorithm, name)
            if ours is None:
                continue
            plain = [(_plain(smooth), sorted(map(_plain, balance))) for smooth, balance in ours]
            assert plain == [(_plain(smooth), sorted(map(_plain, balance))) for smooth, balance in maps], name


@pytest.mark.parametrize("family", ["llama", "qwen2", "phi3", "gemma2"])
def test_mappings_are_counted_as_llmcompressor_resolves_them(family: str) -> None:
    import torch
    from llmcompressor.modifiers.transform.awq import AWQModifier
    from llmcompressor.modifiers.transform.awq.dynamic_mappings import get_layer_mappings_from_model
    from transformers import AutoConfig, AutoModelForCausalLM

    from quantpress.model import layers

    config = AutoConfig.for_model(family, **SIZES, **FAMILIES[family])
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    for _, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.quantization_scheme = object()
    modifier = AWQModifier()
    modifier.mappings = get_layer_mappings_from_model(model)
    modifier._set_resolved_mappings(model)
    tensors = {
        name: headers.Tensor("BF16", tuple(value.shape), value.numel() * 2) for name, value in model.named_parameters()
    }
    structure = layers.of(tensors, tied=bool(config.tie_word_embeddings))
    wanted = mappings.of_architecture("awq", type(model).__name__)
    assert wanted is not None
    found, missing = mappings.resolve(wanted, structure)
    assert missing == []
    ours = {(one.smooth, *sorted(one.balance)) for one in found if mappings.fits(one, structure)}
    assert ours == {(one.smooth_name, *sorted(one.balance_names)) for one in modifier._resolved_mappings}


MOE = {
    "int8": ("qwen2_moe", [{"rtn": {"scheme": "W8A8", "ignore": ["lm_head", "re:.*shared_expert_gate$"]}}]),
    "awq": ("qwen3_moe", [{"awq": {"scheme": "W4A16", "group_size": 16}}]),
    "smoothquant": ("qwen3_moe", [{"smoothquant": {}}, {"rtn": {"scheme": "W8A8"}}]),
    "reap": ("qwen3_moe", [{"reap": {"sparsity": 0.5}}, {"rtn": {"scheme": "W8A8"}}]),
}


@pytest.mark.parametrize("case", MOE)
def test_experts_are_planned_as_they_are_made(case: str, tmp_path: Path, embedded_model: Path) -> None:
    """Experts, routers and shared experts: the plan names exactly the layers that get scales, and their bytes."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    from quantpress.plan import resolve as plan
    from quantpress.quantize import oneshot_worker as oneshot
    from quantpress.quantize.stage import check_checkpoint
    from quantpress.quantize.workers import OneshotJob, recipe_job
    from quantpress.recipe import recipe

    family, modifiers = MOE[case]
    sizes = SIZES | FAMILIES[family] | {"vocab_size": 49152, "mlp_only_layers": []}
    torch.manual_seed(0)
    made = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **sizes), dtype=torch.bfloat16)
    made.save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(embedded_model).save_pretrained(tmp_path / "model")
    config = architecture_config(tmp_path / "model")
    wanted = recipe.Recipe.model_validate({"name": "r", "description": "d", "modifiers": modifiers})
    if wanted.needs_data:
        small = recipe.Calibration(samples=2, max_sequence_length=64)
        wanted = wanted.model_copy(update={"calibration": small})
    planned = plan.make_from(wanted, headers.read_folder(tmp_path / "model"), config)
    model = find_model(str(tmp_path / "model"))
    common = recipe_job(planned, model, tmp_path / "out")
    oneshot.quantize(OneshotJob(common=common, largest_input=planned.largest_input, compute_dtype="stored"))
    check_checkpoint(tmp_path / "out", planned)
    stored = sum(tensor.nbytes for tensor in headers.read_folder(tmp_path / "out").values())
    assert stored == planned.checkpoint_bytes
