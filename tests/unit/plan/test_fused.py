"""What vLLM runs as one layer, by its own word: refused where a recipe treats the parts differently."""

from pathlib import Path
from typing import Any

import pytest

from quantpress.cli import prepare
from quantpress.errors import CapabilityError, InputError
from quantpress.model.headers import Tensor
from quantpress.model.layers import Layers
from quantpress.plan import fused, resolve, servable
from quantpress.plan.fused import GENERIC, Packing, Renamed
from quantpress.plan.resolve import Plan
from quantpress.recipe.presets import Scheme
from quantpress.recipe.recipe import Recipe
from quantpress.runtime import cpu
from quantpress_serve.probes import asking

W8 = Scheme(weight_bits=8, group_size=None, symmetric=True, kind="int", activations="none", strategy="channel")
ATTENTION = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]
MLA = ["self_attn.q_a_proj", "self_attn.q_b_proj", "self_attn.kv_a_proj_with_mqa", "self_attn.kv_b_proj"]
INDEXER = ["self_attn.indexer.wk", "self_attn.indexer.weights_proj", "self_attn.indexer.wq_b"]
DELTA = ["linear_attn.in_proj_qkv", "linear_attn.in_proj_z", "linear_attn.in_proj_b", "linear_attn.in_proj_a"]
EXPERTS = [f"mlp.experts.{number}.{name}" for number in (0, 1) for name in ("gate_proj", "up_proj", "down_proj")]


def structure_of(names: list[str]) -> Layers:
    return Layers({f"model.layers.0.{name}": (64, 64) for name in names})


def check(architecture: str, names: list[str], left: set[str]) -> None:
    """Quantizes all of a layer but those that are `left`."""
    structure = structure_of(names)
    schemes = {name: W8 for name in structure.linears if name.removeprefix("model.layers.0.") not in left}
    fused.check(schemes, structure, fused.packing_of({"architectures": [architecture]}))


# By architecture: a layer's Linear layers, those that stay in 16 bits, and the two that vLLM runs as one.
UNEQUAL = {
    "q, k and v": ("LlamaForCausalLM", ATTENTION, {"self_attn.v_proj"}, ("q_proj", "v_proj")),
    "gate and up": (
        "MistralForCausalLM",
        ["mlp.gate_proj", "mlp.up_proj"],
        {"mlp.gate_proj"},
        ("gate_proj", "up_proj"),
    ),
    "w1 and w3": ("InternLM2ForCausalLM", ["feed_forward.w1", "feed_forward.w3"], {"feed_forward.w3"}, ("w1", "w3")),
    "qkv and z": ("Qwen3_5ForCausalLM", DELTA, {"linear_attn.in_proj_z"}, ("in_proj_qkv", "in_proj_z")),
    "b and a": ("Qwen3_5ForConditionalGeneration", DELTA, {"linear_attn.in_proj_b"}, ("in_proj_b", "in_proj_a")),
    "MLA": ("DeepseekV3ForCausalLM", MLA, {"self_attn.q_a_proj"}, ("q_a_proj", "kv_a_proj_with_mqa")),
    "an indexer": ("DeepseekV32ForCausalLM", INDEXER, {"self_attn.indexer.weights_proj"}, ("wk", "weights_proj")),
    "a tower": ("Gemma3ForConditionalGeneration", ATTENTION, {"self_attn.k_proj"}, ("q_proj", "k_proj")),
    "experts": ("Qwen3MoeForCausalLM", EXPERTS, {"mlp.experts.1.up_proj"}, ("gate_proj", "up_proj")),
    "a model of transformers alone": ("ArceeForCausalLM", ATTENTION, {"self_attn.k_proj"}, ("q_proj", "k_proj")),
    "a model that nobody knows": ("UnheardForCausalLM", ATTENTION, {"self_attn.k_proj"}, ("q_proj", "k_proj")),
}


@pytest.mark.parametrize("case", UNEQUAL)
def test_parts_of_one_layer_are_treated_alike(case: str) -> None:
    architecture, names, left, (one, other) = UNEQUAL[case]
    with pytest.raises(InputError, match=rf"\.{one} and .*\.{other} are treated differently") as caught:
        check(architecture, names, left)
    assert "ignore" in (caught.value.hint or "")
    check(architecture, names, set(names))


# What is apart in vLLM may be treated apart.
APART = {
    "delta net of one tensor": ("Qwen3NextForCausalLM", ["in_proj_qkvz", "in_proj_ba"], {"in_proj_ba"}),
    "q without the rest of MLA": ("DeepseekV3ForCausalLM", MLA, {"self_attn.q_b_proj"}),
    "no gate": ("NemotronHForCausalLM", ["mixer.up_proj", "mixer.down_proj"], {"mixer.up_proj"}),
    "packed in the files": ("Phi3ForCausalLM", ["self_attn.qkv_proj", "self_attn.o_proj"], {"self_attn.o_proj"}),
}


@pytest.mark.parametrize("case", APART)
def test_what_is_apart_may_be_treated_apart(case: str) -> None:
    check(*APART[case])


def test_what_vllm_keeps_in_16_bits_is_left_alone_or_refused() -> None:
    packing = fused.packing_of({"architectures": ["GlmMoeDsaForCausalLM"]})
    structure = structure_of(INDEXER)
    with pytest.raises(InputError, match=r"vLLM keeps indexer.wk_weights_proj in 16 bits") as caught:
        check("GlmMoeDsaForCausalLM", INDEXER, set())
    assert r"indexer\.wk$" in (caught.value.hint or "")
    assert r"indexer\.weights_proj$" in (caught.value.hint or "")
    left = fused.left_alone(structure, packing).left_alone
    assert left.keys() == {"lm_head", *list(structure.linears)[:2]}
    assert fused.left_alone(structure_of(ATTENTION), packing).left_alone == {}


def test_names_are_compared_as_vllm_renames_them() -> None:
    renamed = Renamed(
        regex={r"\.attention\.": ".self_attn."},
        substring={".wq.": ".q_proj.", ".wk.": ".k_proj."},
        prefix={"transformer.": "model.", "mtp.": None},
    )
    packing = GENERIC.model_copy(update={"renamed": renamed})
    assert packing.vllm_name("transformer.h.0.attention.wq") == "model.h.0.self_attn.q_proj"
    assert packing.vllm_name("mtp.fc") == "mtp.fc"
    structure = Layers({"transformer.h.0.attention.wq": (8, 8), "transformer.h.0.attention.wk": (8, 8)})
    assert fused.fused_sets(packing, structure) == [list(structure.linears)]


def test_files_decide_the_names() -> None:
    """The module's name is transformers', the stored one is what vLLM reads."""
    structure = Layers({"a.0": (8, 8), "a.1": (8, 8)}, stored={"a.0": "x.gate_proj", "a.1": "x.up_proj"})
    assert fused.fused_sets(GENERIC, structure) == [["a.0", "a.1"]]


CONFIG: dict[str, Any] = {"num_hidden_layers": 1, "hidden_size": 64}


def planned(architecture: str | None, names: list[str]) -> Plan:
    recipe = Recipe.model_validate({"name": "r", "description": "d", "modifiers": [{"rtn": {"scheme": "W8A8"}}]})
    config = CONFIG | ({"architectures": [architecture]} if architecture else {})
    structure = structure_of([*ATTENTION, *names])
    return resolve.make_from(recipe, _tensors(structure), config, structure)


def _tensors(structure: Layers) -> dict[str, Tensor]:
    return {f"{name}.weight": Tensor("BF16", shape, 2 * 64 * 64) for name, shape in structure.linears.items()}


def test_a_model_that_vllm_does_not_know_is_planned_with_a_note() -> None:
    (note,) = planned("UnheardForCausalLM", []).notes
    assert "has no class for UnheardForCausalLM" in note
    assert planned("LlamaForCausalLM", []).notes == ()
    assert planned(None, []).notes == ()


def test_a_model_that_vllm_serves_no_more_is_made_for_any_target_only() -> None:
    made = planned("DonutForConditionalGeneration", [])
    assert made.notes == ("vLLM 0.32.0 does not serve DonutForConditionalGeneration: vLLM served it until 0.10.2",)
    assert {row.support for row in servable.table(made).values()} == {"no"}
    with pytest.raises(CapabilityError, match="served it until") as caught:
        prepare.inexactness(made, "sm_90")
    assert str(caught.value.hint).count("--target any") == 1
    with pytest.raises(CapabilityError) as caught:  # as `plan --target` asks, which knows no `any`
        servable.require_served(made, "sm_90")
    assert "--target" not in str(caught.value.hint)
    assert prepare.inexactness(made, "any") is None


def test_experts_under_other_names_than_vllms_are_noted() -> None:
    names = ["block_sparse_moe.experts.0.w1", "block_sparse_moe.experts.0.w2", "block_sparse_moe.experts.0.w3"]
    assert planned("MixtralForCausalLM", names).notes == ()
    (note,) = planned("MiniMaxM2ForCausalLM", ["block_sparse_moe.experts.0.gate_proj"]).notes
    assert "calls an expert's projections w1, w2, w3" in note


def test_quantized_experts_need_a_cpu_with_amx(monkeypatch: pytest.MonkeyPatch) -> None:
    made = planned("Qwen3MoeForCausalLM", EXPERTS)
    servable.require_served(made, "cpu-amx")
    servable.require_served(made, "sm_90")
    with pytest.raises(CapabilityError, match="quantized experts need AMX, which cpu-avx512 "):
        servable.require_served(made, "cpu-avx512")
    monkeypatch.setattr(cpu, "features", lambda target=cpu.THIS: cpu.KINDS["cpu-amx"])
    servable.require_served(made, cpu.THIS)


OTHER: dict[str, Any] = {
    "architectures": {"LlamaForCausalLM": {"packed": [{"into": "qkvo", "of": ["v_proj", "o_proj"]}]}},
    "dropped": {"OldForCausalLM": "vLLM served it until 0.1"},
}


def test_a_vllm_of_another_version_is_asked_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    made = planned("LlamaForCausalLM", ["self_attn.o_proj"])
    made = resolve.replace(made, schemes={name: made.schemes[name] for name in made.layers if "o_proj" not in name})
    asked: list[list[str]] = []
    monkeypatch.setattr(asking, "_answer", lambda vllm, script, words, what: asked.append(words) or OTHER)
    monkeypatch.setattr(asking, "vllm_version", lambda vllm: f"{fused.table_version()}+cpu")
    asking.require_fused(made, Path("vllm"))
    assert not asked
    monkeypatch.setattr(asking, "vllm_version", lambda vllm: "0.99.0")
    with pytest.raises(InputError, match=r"v_proj and .*o_proj are treated differently"):
        asking.require_fused(made, Path("vllm"))
    assert asked == [["LlamaForCausalLM"]]
    monkeypatch.setattr(asking, "_answer", _cannot)
    asking.require_fused(made, Path("vllm"))


def test_the_language_model_inside_is_asked_too(monkeypatch: pytest.MonkeyPatch) -> None:
    named = {"architectures": ["SeeingForCausalLM"], "text_config": {"architectures": ["LlamaForCausalLM"]}}
    structure = structure_of([*ATTENTION, "self_attn.o_proj"])
    recipe = {"name": "r", "description": "d", "modifiers": [{"rtn": {"scheme": "W8A8"}}]}
    made = resolve.make_from(Recipe.model_validate(recipe), _tensors(structure), CONFIG | named, structure)
    made = resolve.replace(made, schemes={name: made.schemes[name] for name in made.layers if "o_proj" not in name})
    inner = OTHER["architectures"]
    asked: list[list[str]] = []
    answer = {"architectures": {"SeeingForCausalLM": {}, **inner}, "dropped": {}}
    monkeypatch.setattr(asking, "vllm_version", lambda vllm: "0.99.0")
    monkeypatch.setattr(asking, "_answer", lambda vllm, script, words, what: asked.append(words) or answer)
    with pytest.raises(InputError, match=r"v_proj and .*o_proj are treated differently"):
        asking.require_fused(made, Path("vllm"))
    assert asked == [["SeeingForCausalLM", "LlamaForCausalLM"]]
    monkeypatch.setattr(asking, "_answer", lambda *_: {"architectures": inner, "dropped": {}})
    asking.require_fused(made, Path("vllm"))  # a model that it does not know is taken for none that it does


def _cannot(*_: object) -> None:
    raise CapabilityError("cannot be asked")


def test_what_an_installed_vllm_says_of_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    here = {"architectures": {"A": Packing(module="vllm.a", missing="no torchvision").dump()}, "dropped": {"B": "gone"}}
    monkeypatch.setattr(asking, "_answer", lambda *_: here)
    said = {name: asking.said_of(name, Path("vllm")) for name in ("A", "B", "C", None)}
    assert said["A"] == "A is served by vllm.a, which cannot be imported here: no torchvision"
    assert said["B"] == "B is not served: gone"
    assert said["C"].startswith("C has no class of its own")
    assert said[None] == "the model's config names no architecture"


def test_the_table_can_be_read_whole() -> None:
    known = fused.known()
    assert len(known) > 350
    for name, packing in known.items():
        assert packing.module, name
        assert all(len(pack.of) > 1 for pack in packing.packed), name
        assert packing.missing is None, name
