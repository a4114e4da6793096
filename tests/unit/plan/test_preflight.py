"""What llmcompressor or vLLM would refuse late, refused from names and shapes."""

import contextlib
import json
import resource
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import planned_from

from quantpress.errors import CapabilityError, InputError
from quantpress.language import shipped
from quantpress.model.source import Model
from quantpress.plan import hardware, preflight, servable, summary
from quantpress.plan import resolve as plan
from quantpress.plan.resolve import plan_of
from quantpress.plan.servable import require_served
from quantpress.recipe import recipe
from quantpress.recipe.loading import load_recipe
from quantpress.recipe.modifiers import Reap
from quantpress.recipe.presets import SCHEMES
from quantpress.runtime import cpu

Make = Callable[..., Path]
Run = Callable[..., "subprocess.CompletedProcess[str]"]
LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
    "tie_word_embeddings": True,
    "dtype": "bfloat16",
}
MOE = LLAMA | {
    "model_type": "qwen2_moe",
    "architectures": ["Qwen2MoeForCausalLM"],
    "moe_intermediate_size": 128,
    "shared_expert_intermediate_size": 256,
    "num_experts": 4,
    "num_experts_per_tok": 2,
}
WIDE = LLAMA | {"hidden_size": 512, "intermediate_size": 512}
LLAMA_70B = LLAMA | {
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "tie_word_embeddings": False,
}


def planned(*modifiers: dict[str, Any], config: dict[str, Any] = LLAMA) -> plan.Plan:
    parsed = recipe.Recipe.model_validate({"name": "r", "description": "d", "modifiers": list(modifiers)})
    return planned_from(parsed, config)


def group(pattern: str, scheme: str) -> dict[str, Any]:
    return {"targets": [pattern], "scheme": scheme}


def test_groups_have_schemes_and_group_sizes_of_their_own() -> None:
    groups = [group("re:.*(o_proj|down_proj)$", "W8A16"), group("re:.*(q|k|v|gate|up)_proj$", "W4A16")]
    made = planned({"gptq": {"groups": groups}})
    bits = {name.rpartition(".")[2]: scheme.weight_bits for name, scheme in made.schemes.items()}
    assert bits == {"o_proj": 8, "down_proj": 8} | dict.fromkeys(
        ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"), 4
    )
    assert made.recipe.modifiers[0].gptq is not None
    assert [one.group_size for one in made.recipe.modifiers[0].gptq.groups or []] == [128, 128]


REFUSED: dict[str, tuple[list[dict[str, Any]], str]] = {
    "a layer twice": (
        [{"rtn": {"groups": [group("re:.*o_proj", "W8A8"), group("Linear", "W4A16")]}}],
        "o_proj is quantized twice",
    ),
    "a layer twice, by two modifiers": (
        [{"rtn": {"scheme": "W8A8", "targets": ["re:.*mlp"]}}, {"gptq": {"scheme": "W8A8"}}],
        "is quantized twice: by rtn",
    ),
    "q without k and v": ([{"rtn": {"scheme": "W8A8", "ignore": ["lm_head", "re:.*q_proj"]}}], "treated differently"),
    "gate unlike up": (
        [{"rtn": {"groups": [group("re:.*gate_proj", "W8A8"), group("re:.*up_proj", "W4A16")]}}],
        "gate_proj and model.layers.0.mlp.up_proj are treated differently",
    ),
    "no mapping": (
        [
            {"smoothquant": {"mappings": [{"smooth_layer": "re:.*ln_1$", "balance_layers": ["re:.*c_attn$"]}]}},
            {"rtn": {"scheme": "W8A8"}},
        ],
        "match nothing here, so nothing would be rescaled",
    ),
    "half a mapping": (
        [
            {"awq": {"mappings": [{"smooth_layer": "re:.*ln_1$", "balance_layers": ["re:.*q_proj$"]}]}},
            {"rtn": {"scheme": "W4A16"}},
        ],
        "do not fit this model, says llmcompressor: .*incomplete set",
    ),
    "awq on layers that nothing quantizes": (
        [
            {"awq": {"mappings": [{"smooth_layer": "re:.*up_proj$", "balance_layers": ["re:.*down_proj$"]}]}},
            {"rtn": {"scheme": "W8A8", "targets": ["re:.*self_attn"]}},
        ],
        "nothing would be rescaled",
    ),
    "smoothquant ignores nothing": ([{"smoothquant": {"ignore": ["re:.*ln_f"]}}, {"rtn": {"scheme": "W8A8"}}], "ln_f"),
    "experts of a model without": ([{"reap": {"sparsity": 0.5}}, {"rtn": {"scheme": "W8A8"}}], "this model has none"),
    "a rotation that does not fit": (
        [{"spinquant": {"transform_block_size": 512}}, {"rtn": {"scheme": "W8A8"}}],
        "512 does not divide the hidden size 256",
    ),
    "a cache whose attention is ignored": (
        [{"rtn": {"scheme": "FP8_DYNAMIC", "kv_cache": {}, "ignore": ["lm_head", "re:.*self_attn.*"]}}],
        r"which matches model\.layers\.0\.self_attn itself: the KV cache's scales would be left as they are by chance",
    ),
    "a pruner that ignores nothing": ([{"wanda": {"sparsity": 0.5, "ignore": ["re:.*head7"]}}], "matches no layer"),
    "groups of a preset": ([{"rtn": {"scheme": "MXFP4"}}], "group_size 32 does not divide the 272"),
}


@pytest.mark.parametrize("case", REFUSED, ids=str)
def test_what_would_fail_late_is_refused(case: str) -> None:
    modifiers, words = REFUSED[case]
    config = LLAMA | {"intermediate_size": 272} if case == "groups of a preset" else LLAMA
    with pytest.raises(InputError, match=words):
        planned(*modifiers, config=config)


def test_the_layers_of_an_attention_may_be_ignored_beside_its_cache() -> None:
    made = planned({"rtn": {"scheme": "FP8_DYNAMIC", "kv_cache": {}, "ignore": ["lm_head", r"re:.*self_attn\..*"]}})
    assert not [name for name in made.layers if "self_attn" in name]


def test_routed_experts_are_experts() -> None:
    assert preflight.experts_left(Reap(sparsity=0.25), {"n_routed_experts": 128, "num_experts_per_tok": 8}) == 96


def test_mappings_are_counted() -> None:
    made = planned({"smoothquant": {}}, {"rtn": {"scheme": "W8A8"}})
    assert made.notes == ("smoothquant: llmcompressor's mappings for LlamaForCausalLM match 4 times",)
    made = planned({"awq": {"scheme": "W4A16"}})  # v_proj > o_proj is left out: their widths differ
    assert made.notes == ("awq: llmcompressor's mappings for LlamaForCausalLM match 6 times",)


def test_experts_are_one_layer_and_routers_are_none() -> None:
    ignored = ["lm_head", "re:.*shared_expert_gate$"]
    made = planned({"rtn": {"scheme": "W8A8", "ignore": ignored}}, config=MOE)
    assert not [name for name in made.layers if name.endswith("mlp.gate")]
    assert planned({"rtn": {"scheme": "W8A8"}}, config=MOE).layers == made.layers
    with pytest.raises(InputError, match=r"vLLM keeps mlp.shared_expert_gate in 16 bits"):
        planned({"rtn": {"scheme": "W8A8", "ignore": []}}, config=MOE)
    with pytest.raises(InputError, match=r"experts\.0\..* and .*experts\.1\..* are treated differently"):
        planned({"rtn": {"scheme": "W8A8", "ignore": [*ignored, r"re:.*experts\.1\."]}}, config=MOE)
    with pytest.raises(InputError, match="1 experts would be left, and each token goes to 2"):
        planned({"reap": {"sparsity": 0.75}}, config=MOE)
    halved = planned({"reap": {"sparsity": 0.5}}, {"rtn": {"scheme": "W8A8", "ignore": ignored}}, config=MOE)
    assert halved.notes == ("reap leaves 2 experts in each layer",)
    assert not [name for name in halved.layers if ".experts.2." in name]
    assert len(halved.layers) == len(made.layers) - 2 * 2 * 3


def test_a_tied_lm_head_that_is_quantized_is_stored_beside_the_embeddings() -> None:
    left = planned({"rtn": {"scheme": "W8A8"}})
    taken = planned({"rtn": {"scheme": "W8A8", "ignore": []}})
    assert "stores both" in taken.notes[0]
    assert taken.checkpoint_bytes - left.checkpoint_bytes == 1000 * 256 + 1000 * 2


@pytest.mark.parametrize(("target", "scheme"), [("sm_80", "W4AFP8"), ("cpu-avx512", "W8A16"), ("sm_100", "W8A8")])
def test_a_scheme_that_the_target_cannot_serve_says_what_can(target: str, scheme: str) -> None:
    made = planned({"rtn": {"scheme": scheme}})
    with pytest.raises(CapabilityError, match=f"is not served on {target}") as caught:
        require_served(made, target)
    assert f"{target} serves W4A16" in (caught.value.hint or "")


def test_the_kernel_of_a_cpu_takes_multiples_of_32() -> None:
    config = LLAMA | {"intermediate_size": 528}
    weights = {"num_bits": 4, "strategy": "group", "group_size": 16}
    require_served(planned({"rtn": {"weights": weights}}), "cpu-avx512")
    with pytest.raises(CapabilityError, match=r"down_proj has 528 input"):
        require_served(planned({"rtn": {"weights": weights}}, config=config), "cpu-avx512")


def test_every_scheme_has_a_row_in_the_table_of_hardware() -> None:
    from quantpress.recipe.presets import SCHEMES

    kinds = {name: hardware.kind_of(scheme) for name, scheme in SCHEMES.items()}
    assert hardware.UNSERVED not in kinds.values()
    assert all(row.keys() == {*hardware.GPUS, cpu.THIS} for row in hardware.TABLE.values())


@pytest.mark.parametrize(
    "odd",
    [
        {"architectures": 3},
        {"architectures": []},
        {"num_attention_heads": "many"},
        {"num_attention_heads": 3},
        {"num_key_value_heads": None},
        {"text_config": []},
        {"hidden_size": -1},
        {"vocab_size": 10**30},
        {"model_type": "unheard-of"},
    ],
    ids=str,
)
@pytest.mark.parametrize("weights", [True, False])
def test_an_odd_config_is_planned_or_refused_but_never_a_crash(
    odd: dict[str, Any], weights: bool, make_model: Make
) -> None:
    folder = make_model(hidden=64, intermediate=128)
    config = json.loads((folder / "config.json").read_text()) | odd
    (folder / "config.json").write_text(json.dumps(config))
    if not weights:
        (folder / "model.safetensors").unlink()
    with contextlib.suppress(InputError):
        made = plan_of(load_recipe("smoothquant-gptq-w8a8"), Model("m", folder, str(folder), config))
        assert summary.summary_of(made, config, 100, 1).layers == {"W8A8, channel": 14, "16 bits": 1}


@pytest.mark.parametrize(("context", "noted"), [(4096, False), (4097, True)])
def test_a_context_beyond_the_models_is_noted(context: int, noted: bool, make_model: Make) -> None:
    folder = make_model(hidden=64, intermediate=128)
    config = json.loads((folder / "config.json").read_text()) | {"max_position_embeddings": 4096}
    made = plan_of(load_recipe("w8a8-dynamic"), Model("m", folder, str(folder), config))
    found = summary.summary_of(made, config, context, 1).notes
    assert any("made for 4096 tokens" in note for note in found) is noted


@pytest.mark.parametrize("name", shipped.names("recipes"))
def test_a_shipped_recipe_names_the_least_gpu_that_runs_it_as_it_says(name: str) -> None:
    loaded = load_recipe(name)
    kinds = servable.kinds_of(planned_from(loaded, WIDE))
    for levels in (("full",), ("full", "fallback")):
        able = [
            int(target.removeprefix("sm_")) / 10
            for target in hardware.GPUS
            if all(hardware.cell(kind, target).support in levels for kind in kinds)
        ]
        if able:
            break
    assert loaded.targets is not None
    assert loaded.targets.compute_capability == able[0]


def test_too_little_calibration_is_noted(tmp_path: Path, quantpress: Run) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text(json.dumps(WIDE))
    few = ("--set", "calibration.samples=1", "--set", "calibration.max_sequence_length=128")
    done = quantpress("plan", "gptq-w4a16", "--model", str(tmp_path / "m"), *few)
    assert "128 calibration tokens are fewer than the 512 input features" in done.stdout


def test_tensor_parallel_sizes_end_where_a_group_would_be_cut() -> None:
    from quantpress.plan import sizes

    made = planned({"rtn": {"scheme": "W4A16", "group_size": 128}})
    shapes = made.structure.linears
    assert sizes.tensor_parallel_sizes(LLAMA, made.schemes, shapes) == [1, 2]
    made = planned({"rtn": {"scheme": "W8A8"}})
    assert sizes.tensor_parallel_sizes(LLAMA, made.schemes, shapes) == [1, 2, 4, 8]


def test_what_vllm_keeps_whole_on_every_gpu_limits_no_tensor_parallel_size() -> None:
    """DeepSeek V3's latent projections in blocks of 128: 512 + 64 rows are no multiple of them."""
    from quantpress.plan import sizes

    scheme = SCHEMES["FP8_BLOCK"]
    whole = {"q_a_proj": (1536, 7168), "kv_a_proj_with_mqa": (576, 7168), "indexer.wk": (128, 7168)}
    shapes = {f"layers.0.self_attn.{name}": shape for name, shape in whole.items()}
    config = {"num_attention_heads": 128, "kv_lora_rank": 512}
    assert sizes.tensor_parallel_sizes(config, dict.fromkeys(shapes, scheme), shapes) == [1, 2, 4, 8, 16]
    shapes["layers.0.self_attn.q_b_proj"] = (24576 // 64, 1536)
    assert sizes.tensor_parallel_sizes(config, dict.fromkeys(shapes, scheme), shapes) == [1]


def test_a_plan_for_70b_takes_a_config_alone(quantpress: Run, tmp_path: Path) -> None:
    (tmp_path / "70b").mkdir()
    (tmp_path / "70b" / "config.json").write_text(json.dumps(LLAMA_70B))
    options = ("--context", "8192", "--concurrency", "16", "--json")
    done = quantpress("plan", "gptq-w4a16", "--model", str(tmp_path / "70b"), "--target", "any", *options)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["layers"] == {"W4A16, group of 128": 560, "16 bits": 1}
    # Llama 3 70B has 70.6 billion parameters; 2 bytes each.
    assert found["bytes"]["before"] == pytest.approx(141.1e9, rel=0.001)
    assert found["bits_per_weight"] == pytest.approx(4.125, abs=0.001)
    assert found["memory"]["kv_cache"] == 2 * 80 * 8 * 128 * 2 * 8192 * 16
    assert found["tensor_parallel_sizes"] == [1, 2, 4, 8, 16]
    assert found["hardware"]["sm_90"]["support"] == "full"


def test_plan_for_a_target_that_cannot_serve_it_is_exit_4(quantpress: Run, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text(json.dumps(LLAMA))
    done = quantpress("plan", "w4afp8", "--model", str(tmp_path / "m"), "--target", "sm_100")
    assert done.returncode == 4
    assert "W4AFP8 is served on sm_90" in done.stderr
    assert quantpress("plan", "w4afp8", "--model", str(tmp_path / "m"), "--target", "sm_42").returncode == 2


CPU, OLD_CPU = ("cpu-avx512", "latency"), ("cpu-avx2", "latency")


def test_suggestions_name_reasons_and_sources(quantpress: Run, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text(json.dumps(LLAMA))
    common = ("recipes", "suggest", "--model", str(tmp_path / "m"), "--json")
    first = {}
    hopper = (("sm_90", "throughput"), ("sm_90", "latency"))
    others = (("sm_89", "throughput"), ("sm_80", "throughput"), ("sm_100", "memory"), CPU, OLD_CPU)
    for target, goal in hopper + others:
        rows = json.loads(quantpress(*common, "--target", target, "--goal", goal).stdout)
        assert all(source and claim for row in rows for claim, source in row["reasons"])
        assert [row["possible"] for row in rows] == sorted((row["possible"] for row in rows), reverse=True)
        first[target, goal] = rows[0]["recipe"]
    assert first["sm_80", "throughput"] in ("w8a8-dynamic", "smoothquant-gptq-w8a8")
    assert first["sm_89", "throughput"] == first["sm_90", "throughput"] == "fp8-dynamic"
    assert "w4a16" in first["sm_90", "latency"]
    assert first[CPU] in ("w8a8-dynamic", "smoothquant-gptq-w8a8")
    assert first[OLD_CPU] == "fp8-dynamic"  # W8A8 is inexact there
    assert first["sm_100", "memory"] == "kv-fp8"  # the KV cache of so small a model is larger than its weights


WORK = {
    "a recipe is validated": (("recipes", "validate", "mixed-w4-w8"), 0.6),
    "a model that was asked about is planned": (("plan", "gptq-w4a16", "--model", "70b", "--target", "any"), 1.0),
}


@pytest.mark.parametrize("case", WORK)
def test_what_is_typed_often_takes_little_of_the_processor(
    case: str, quantpress: Run, quantpress_process: Run, structures: Path, tmp_path: Path
) -> None:
    """Processor time, not the clock's: a busy machine must not fail this. Idle, it takes half of the bound."""
    arguments, bound = WORK[case]
    (tmp_path / "70b").mkdir()
    (tmp_path / "70b" / "config.json").write_text(json.dumps(LLAMA_70B))
    assert quantpress(*arguments).returncode == 0
    (tmp_path / "cache" / "structures").symlink_to(structures)

    def used() -> float:
        spent = resource.getrusage(resource.RUSAGE_CHILDREN)
        return spent.ru_utime + spent.ru_stime

    took = []
    for _ in range(3):
        before = used()
        assert quantpress_process(*arguments).returncode == 0
        took.append(used() - before)
    assert min(took) < bound


def test_blocks_must_divide_the_parts_of_a_fused_layer_but_the_last() -> None:
    block = {"rtn": {"scheme": "FP8_BLOCK"}}
    narrow = planned(block)  # k_proj has 64 rows and stands before v_proj
    assert servable.table(narrow)["sm_90"].support == "no"
    with pytest.raises(CapabilityError, match="k_proj has 64 output features, which blocks of 128 rows"):
        require_served(narrow, "sm_90")
    wide = planned(block, config=LLAMA | {"num_key_value_heads": 4, "intermediate_size": 448 + 64})
    assert servable.table(wide)["sm_90"].support == "full"


@pytest.mark.parametrize(("size", "support"), [(32, "full"), (128, "full"), (16, "fallback"), (256, "fallback")])
def test_group_sizes_that_no_kernel_of_a_gpu_has(size: int, support: str) -> None:
    made = planned({"rtn": {"scheme": "W4A16", "group_size": size}})
    assert servable.table(made)["sm_90"].support == support


@pytest.mark.parametrize(
    ("odd", "words"),
    [
        ({"num_hidden_layers": 3}, "describes 9 tensors that its files do not hold: model.layers.2"),
        ({"intermediate_size": 256}, r"has the shape \(.*128.*\) in the files, and \(.*256.*\) by"),
        ({"attention_bias": True}, "describes 8 tensors that its files do not hold: .*bias"),
    ],
    ids=str,
)
def test_weights_that_are_not_what_the_config_says(odd: dict[str, Any], words: str, make_model: Make) -> None:
    folder = make_model(hidden=64, intermediate=128)
    config = json.loads((folder / "config.json").read_text()) | odd
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=words):
        plan_of(load_recipe("w8a8-dynamic"), Model("m", folder, str(folder), config))


def test_data_that_is_not_there_is_seen_by_plan(tmp_path: Path, quantpress: Run) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA))
    done = quantpress("plan", "gptq-w4a16", "--model", str(folder), "--set", "calibration.dataset=gone.parquet")
    assert done.returncode == 2
    assert "gone.parquet" in done.stderr


def test_a_hub_model_is_planned_from_its_config_in_the_cache(
    tmp_path: Path, quantpress: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = tmp_path / "hub" / "models--org--name"
    snapshot = repository / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    (snapshot / "config.json").write_text(json.dumps(LLAMA))
    done = quantpress("plan", "w8a8-dynamic", "--model", "org/name", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["layers"] == {"W8A8, channel": 14, "16 bits": 1}
