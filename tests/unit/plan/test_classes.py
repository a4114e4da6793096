"""Targets that are classes, and embeddings: what llmcompressor takes is planned, or refused with a reason."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quantpress.errors import CapabilityError, InputError
from quantpress.model.layers import Layers, asked
from quantpress.model.source import find_model
from quantpress.model.structure import structure_of
from quantpress.plan.resolve import Plan, plan_of
from quantpress.plan.servable import require_served
from quantpress.recipe.modifiers import Wanda
from quantpress.recipe.recipe import Recipe

Make = Callable[..., Path]
EMBEDDING = "model.embed_tokens"
NAMES = ["a.q_proj", "a.gate", "embed", "embed.positions", "norm"]
BY_HAND = Layers(
    linears={"a.q_proj": (8, 8), "a.gate": (4, 8)},
    others=("norm",),
    embeddings={"embed": (32, 8), "embed.positions": (16, 8)},
    containers=("a",),
    classes={"a.gate": "Router", "embed.positions": "Learned", "norm": "Norm", "a": "Block"},
    bases={"Router": ["Router", "Linear", "Module"], "Learned": ["Learned", "Embedding", "Module"], "Norm": ["Norm"]},
)


def planned(folder: Path, *modifiers: dict[str, Any]) -> Plan:
    recipe: dict[str, Any] = {"name": "r", "description": "d", "modifiers": list(modifiers)}
    if any("gptq" in modifier or "wanda" in modifier for modifier in modifiers):
        recipe["calibration"] = {"dataset": "quantpress-chat", "samples": 1, "max_sequence_length": 16}
    return plan_of(Recipe.model_validate(recipe), find_model(str(folder)))


def test_a_class_matches_what_is_derived_from_it() -> None:
    assert BY_HAND.matching("Linear", NAMES) == NAMES[:2]
    assert BY_HAND.matching("Embedding", NAMES) == NAMES[2:4]
    assert BY_HAND.matching("Router", NAMES) == ["a.gate"]
    assert BY_HAND.matching("Norm", NAMES) == ["norm"]
    assert BY_HAND.matching("Block", NAMES) == []
    assert BY_HAND.selected(NAMES, ["Linear", "Embedding"], ["Learned", "re:.*gate"]) == ["a.q_proj", "embed"]


@pytest.mark.parametrize("targets", [["Linear"], ["Embedding"], ["Module"], ["LlamaMLP"], ["re:.*embed"], ["re:.*"]])
def test_what_is_quantized_is_what_compressed_tensors_matches(targets: list[str], make_model: Make) -> None:
    import torch
    from compressed_tensors.utils import match_named_modules
    from transformers import AutoConfig

    from quantpress.model.whole_model_worker import empty_model

    found = find_model(str(make_model()))
    structure = asked(structure_of(found.path, found.config, {}))
    model = empty_model(AutoConfig.from_pretrained(found.path), trust_remote_code=False)
    theirs = {
        name
        for name, module in match_named_modules(model, targets, ["re:.*down"])
        if isinstance(module, torch.nn.Linear | torch.nn.Embedding)
    }
    assert set(structure.selected(list(structure.shapes), targets, ["re:.*down"])) == theirs


@pytest.mark.parametrize("targets", [["Embedding"], ["re:.*embed_tokens$"], [EMBEDDING]])
@pytest.mark.parametrize("tied", [True, False])
def test_an_embedding_is_planned_and_stands_apart_from_the_head(
    targets: list[str], tied: bool, make_model: Make
) -> None:
    folder = make_model(hidden=64, vocab=32, tied=tied)
    made = planned(folder, {"rtn": {"scheme": "W8A16", "group_size": 64, "targets": targets, "ignore": []}})
    assert made.layers == (EMBEDDING,)
    packed, head = 32 * 64 + 32 * 2 + 16, 32 * 64 * 2  # bytes: numbers, scales and the shape; 16 bits each
    assert made.checkpoint_bytes == made.weight_bytes - head + packed + (head if tied else 0)
    assert any("stores both" in note for note in made.notes) == tied


def test_linear_layers_alone_are_what_is_quantized_without_targets(make_model: Make) -> None:
    made = planned(make_model(), {"rtn": {"scheme": "W8A16"}})
    assert EMBEDDING not in made.layers
    assert planned(make_model("other"), {"rtn": {"scheme": "W8A16", "targets": ["re:.*"]}}).layers == tuple(
        sorted([*made.layers, EMBEDDING])
    )


REFUSED = {
    "a class that holds layers": ({"rtn": {"scheme": "W8A16", "targets": ["LlamaMLP"]}}, "modules that only hold"),
    "a class that is not there": ({"rtn": {"scheme": "W8A16", "targets": ["Conv1D"]}}, "'Conv1D' matches none"),
    "a class of others": ({"rtn": {"scheme": "W8A16", "targets": ["LlamaRMSNorm"]}}, "cannot be quantized"),
    "GPTQ": ({"gptq": {"scheme": "W8A16", "targets": ["Linear", "Embedding"]}}, "token numbers.*undefined"),
    "activations": ({"rtn": {"scheme": "W8A8", "targets": ["Embedding"]}}, "token numbers.*W8A8"),
}


@pytest.mark.parametrize("case", REFUSED, ids=str)
def test_what_llmcompressor_would_do_nothing_or_nonsense_with_is_refused(case: str, make_model: Make) -> None:
    modifier, words = REFUSED[case]
    with pytest.raises(InputError, match=words):
        planned(make_model(), modifier)


SERVED = {
    "by class": (["Embedding"], {"scheme": "W8A16"}, None),
    "by a name that vLLM's Llama does not tell it": ([EMBEDDING], {"scheme": "W8A16"}, "name the class Embedding"),
    "with zero points": (["Embedding"], {"scheme": "W4A16_ASYM"}, "symmetric integers"),
}


@pytest.mark.parametrize("case", SERVED, ids=str)
def test_vllm_loads_some_embeddings_on_gpus_and_none_on_cpus(case: str, make_model: Make) -> None:
    targets, scheme, words = SERVED[case]
    made = planned(make_model(), {"rtn": {**scheme, "targets": targets, "ignore": []}})
    with pytest.raises(CapabilityError, match=words or "Triton only"):
        require_served(made, "cpu-avx512")
    if words:
        with pytest.raises(CapabilityError, match=words):
            require_served(made, "sm_90")
    else:
        require_served(made, "sm_90")


def test_pruning_takes_the_layers_inside_of_what_it_names(make_model: Make) -> None:
    from transformers import AutoConfig

    from quantpress.model.whole_model_worker import empty_model
    from quantpress.quantize.to_llmcompressor import modifiers_of

    folder = make_model()
    body = {"sparsity": 0.5, "targets": ["LlamaMLP"], "ignore": ["re:.*down_proj"]}
    made = planned(folder, {"wanda": body})
    assert isinstance(made.recipe.modifiers[0].body, Wanda)
    model = empty_model(AutoConfig.from_pretrained(folder), trust_remote_code=False)
    (pruning,) = modifiers_of(made.recipe, model)
    expected = [f"model.layers.{layer}.mlp.{name}" for layer in (0, 1) for name in ("gate_proj", "up_proj")]
    assert pruning.targets == expected
