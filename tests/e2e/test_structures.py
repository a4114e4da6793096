"""What models are made of, against what transformers saves and what compressed-tensors matches."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from quantpress.errors import InputError
from quantpress.model import headers, layers
from quantpress.model.source import Model, find_model, read_config
from quantpress.model.structure import StructureJob, described_tensors, structure_of
from quantpress.plan.resolve import plan_of

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
    "qwen2": {"tie_word_embeddings": True},
    "phi3": {},
    "mixtral": {"num_local_experts": 4},
    "qwen2_moe": {**EXPERTS, "shared_expert_intermediate_size": 80},
    "qwen3_moe": {**EXPERTS, "mlp_only_layers": [0]},
}


@pytest.fixture(autouse=True)
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANTPRESS_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_config_alone_tells_the_tensors_of_the_checkpoint(family: str, tmp_path: Path) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from quantpress.model import structure_worker

    config = AutoConfig.for_model(family, **SIZES, **FAMILIES[family])
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(tmp_path)
    real = headers.read_folder(tmp_path)
    with_weights = structure_worker.structure(StructureJob(folder=str(tmp_path), tensors=real))
    bare = structure_worker.structure(StructureJob(folder=str(tmp_path)))
    found = described_tensors(read_config(tmp_path), bare)
    assert {name: tensor.shape for name, tensor in found.items()} == {name: t.shape for name, t in real.items()}
    assert sum(tensor.nbytes for tensor in found.values()) == sum(tensor.nbytes for tensor in real.values())
    assert bare.linears == with_weights.linears
    assert bare.rescalings == with_weights.rescalings


@pytest.mark.parametrize("family", FAMILIES)
def test_names_are_those_that_transformers_would_save(family: str) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.core_model_loading import revert_weight_conversion

    from quantpress.model.names_worker import SavedNames
    from quantpress.model.structure_worker import _conversions

    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **SIZES, **FAMILIES[family]))
    model._weight_conversions = _conversions(model)
    ours = SavedNames(model)
    for name, tensor in model.state_dict().items():
        assert ours.names(name, tensor) == list(revert_weight_conversion(model, {name: tensor}))


def test_tensors_under_names_of_before_are_known(tmp_path: Path) -> None:
    """Image-text models on the hub have names from before transformers 5, which it renames while it loads."""
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import AutoConfig, Qwen2_5_VLForConditionalGeneration

    vision = {"depth": 2, "hidden_size": 32, "num_heads": 2, "intermediate_size": 64, "out_hidden_size": 64}
    config = AutoConfig.for_model("qwen2_5_vl", text_config=SIZES, vision_config=vision)
    Qwen2_5_VLForConditionalGeneration._from_config(config, dtype=torch.bfloat16).save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    now = load_file(path)
    before = {
        name.replace("model.language_model.", "model.").replace("model.visual.", "visual."): tensor
        for name, tensor in now.items()
    }
    save_file({name: tensor.clone() for name, tensor in before.items()}, path, metadata={"format": "pt"})
    found = structure_of(tmp_path, read_config(tmp_path), headers.read_if_any(tmp_path))
    assert found.not_loaded == []
    assert found.tensors.keys() == before.keys()
    stored = {f"{linear.stored}.weight" for linear in found.linears.values()}
    renamed = {found.renamed.get(name, name) for name in before}
    assert stored <= renamed


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
    wanted = recipe.Recipe.model_validate({"name": "r", "description": "d", "modifiers": modifiers})
    if wanted.needs_data:
        small = recipe.Calibration(samples=2, max_sequence_length=64)
        wanted = wanted.model_copy(update={"calibration": small})
    model = find_model(str(tmp_path / "model"))
    planned = plan_of(wanted, model)
    common = recipe_job(planned, model, tmp_path / "out")
    oneshot.quantize(OneshotJob(common=common, largest_input=planned.largest_input, compute_dtype="stored"))
    check_checkpoint(tmp_path / "out", planned)
    stored = sum(tensor.nbytes for tensor in headers.read_folder(tmp_path / "out").values())
    assert stored == planned.checkpoint_bytes


def _kinds() -> dict[str, str]:
    """The class of each causal and image-text type of the installed transformers."""
    from transformers.models.auto import modeling_auto as auto

    names = {**auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, **auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES}
    return {kind: name if isinstance(name, str) else name[0] for kind, name in sorted(names.items())}


def test_what_is_planned_is_what_compressed_tensors_matches(tmp_path: Path) -> None:
    """For all types with QUANTPRESS_ALL_FAMILIES set (`make test-families`), else for every tenth."""
    import torch
    import transformers
    from compressed_tensors.utils.match import match_named_modules

    from quantpress.model import structure_worker
    from quantpress.model.whole_model_worker import empty_model

    transformers.logging.set_verbosity_error()
    kinds = list(_kinds().items())
    every = os.environ.get("QUANTPRESS_ALL_FAMILIES")
    checked, unlike, refused = 0, {}, {}
    for kind, name in kinds if every else kinds[::10]:
        try:
            config = _smaller(transformers.AutoConfig.for_model(kind))
            config.architectures = [name]
            model = empty_model(config, trust_remote_code=False)
            folder = tmp_path / kind
            config.save_pretrained(folder)
        except Exception:
            continue  # transformers cannot build it from its own defaults, or not with fewer layers
        try:
            found = structure_worker.structure(StructureJob(folder=str(folder)))
        except InputError as error:
            refused[kind] = error.message
            continue
        structure_worker.linearize(model)
        patterns = [pattern for pattern in found.left_alone if pattern != "lm_head"] + ["lm_head"]
        asked = layers.asked(found)
        classes = ["Linear", "Embedding", *sorted(set(found.special.values()))]
        theirs = {
            one
            for one, module in match_named_modules(model, classes, patterns)
            if isinstance(module, torch.nn.Linear | torch.nn.Embedding)
        }
        ours = set(asked.selected(list(asked.shapes), classes, patterns))
        checked += 1
        if ours != theirs:
            unlike[kind] = sorted(ours ^ theirs)[:3]
    assert unlike == {}
    assert refused == {}
    assert checked > (200 if every else 15)


def _smaller(config: Any) -> Any:
    """With few layers and experts: hundreds of gigabytes are fast on the meta device too, but not that fast."""
    media = [getattr(config, f"{kind}_config", None) for kind in ("vision", "audio")]
    for part in filter(None, [config, config.get_text_config(), *media]):
        layers_before = getattr(part, "num_hidden_layers", 0)
        for name in ("num_hidden_layers", "n_layer", "num_layers", "depth", "num_experts", "num_local_experts"):
            if isinstance(getattr(part, name, None), int):
                setattr(part, name, min(getattr(part, name), 4))
        for name, value in vars(part).items():
            if isinstance(value, list) and len(value) == layers_before > 4:
                setattr(part, name, value[:4])
    return config


def test_a_plan_asks_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """By the worker itself, as a process: the second plan finds the answer."""
    from quantpress.recipe.loading import load_recipe
    from quantpress.runtime import console

    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], **SIZES}
    (tmp_path / "config.json").write_text(json.dumps(config))
    console.use()
    model = Model("m", tmp_path, str(tmp_path), config)
    first = plan_of(load_recipe("w8a8-dynamic"), model)
    assert "asking transformers what a llama is made of" in capfd.readouterr().err
    assert plan_of(load_recipe("w8a8-dynamic"), model) == first
    assert "asking" not in capfd.readouterr().err
    (kept,) = (tmp_path / "cache" / "structures").glob("*.json")
    kept.write_text("{}")
    assert plan_of(load_recipe("w8a8-dynamic"), model) == first
