"""One list of layers to leave alone serves several models: what a model lacks is a note."""

from collections.abc import Callable
from pathlib import Path

import pytest

from quantpress.errors import InputError
from quantpress.model.source import find_model
from quantpress.plan.resolve import Plan, plan_of
from quantpress.recipe.recipe import Recipe

Make = Callable[..., Path]


def _planned(folder: Path, *modifiers: dict[str, object]) -> Plan:
    recipe = Recipe.model_validate({"name": "r", "description": "d", "modifiers": list(modifiers)})
    return plan_of(recipe, find_model(str(folder)))


@pytest.mark.parametrize("name", ["rtn", "gptq", "awq"])
def test_what_matches_is_ignored_and_what_does_not_is_a_note(name: str, make_model: Make) -> None:
    names = ["re:.*down_proj$", "re:visual\\..*", "LlamaRMSNorm", "re:.*gate$"]
    made = _planned(make_model(), {name: {"scheme": "W4A16", "ignore_if_present": names}})
    assert len(made.layers) == 12
    assert not [layer for layer in made.layers if layer.endswith("down_proj")]
    assert f"{name}.ignore_if_present: nothing here is named re:visual\\..*, re:.*gate$" in made.notes
    body = made.recipe.dump()["modifiers"][0][name]
    assert body["ignore"] == ["lm_head", "re:.*down_proj$", "LlamaRMSNorm"]
    assert "ignore_if_present" not in body


def test_a_resolved_recipe_resolves_to_itself(make_model: Make) -> None:
    folder = make_model()
    made = _planned(folder, {"rtn": {"scheme": "W8A8", "ignore_if_present": ["re:.*down_proj$", "re:visual"]}})
    assert plan_of(made.recipe, find_model(str(folder))).recipe == made.recipe


def test_a_list_that_names_nothing_changes_nothing(make_model: Make) -> None:
    folder = make_model()
    with_list = _planned(folder, {"rtn": {"scheme": "W8A8", "ignore_if_present": ["re:visual"]}})
    assert with_list.recipe == _planned(folder, {"rtn": {"scheme": "W8A8"}}).recipe


def test_modifiers_that_do_not_quantize_have_it_too(make_model: Make) -> None:
    body = {"sparsity": 0.5, "ignore_if_present": ["re:.*down_proj$", "re:visual"]}
    made = _planned(make_model(), {"wanda": body}, {"rtn": {"scheme": "W8A8"}})
    assert made.recipe.dump()["modifiers"][0]["wanda"]["ignore"] == ["lm_head", "re:.*down_proj$"]


def test_ignore_itself_stays_strict(make_model: Make) -> None:
    with pytest.raises(InputError, match="matches none of"):
        _planned(make_model(), {"rtn": {"scheme": "W8A8", "ignore": ["re:visual"], "ignore_if_present": ["re:visual"]}})


def test_awq_that_only_rescales_takes_no_list_of_layers() -> None:
    modifiers = [{"awq": {"ignore_if_present": ["re:visual"]}}, {"rtn": {"scheme": "W8A8"}}]
    with pytest.raises(ValueError, match="give either scheme"):
        Recipe.model_validate({"name": "r", "description": "d", "modifiers": modifiers})
