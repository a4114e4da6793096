"""Dummy weights: what is refused, and whose tokenizer makes the prompts. tests/e2e/test_bench.py serves some."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from quantpress.errors import InputError
from quantpress.model.source import Model
from quantpress.recipe.recipe import Recipe
from quantpress_serve.bench import dummy


@pytest.mark.parametrize("modifier", [{"spinquant": {}}, {"wanda": {"sparsity": 0.5}}])
def test_a_recipe_that_changes_more_than_schemes_is_refused(modifier: dict[str, Any]) -> None:
    modifiers = [modifier, {"rtn": {"scheme": "W8A8"}}]
    recipe = Recipe.model_validate({"name": "r", "description": "d", "modifiers": modifiers})
    with pytest.raises(InputError, match=f"{next(iter(modifier))} changes more of the model"):
        dummy.require_schemes_only(recipe)


def test_the_models_own_tokenizer_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embedded = Model("embedded", tmp_path / "embedded", "embedded", {"vocab_size": 100})
    monkeypatch.setattr(dummy, "find_model", lambda *_: embedded)
    model = Model("m", tmp_path, "m", {"vocab_size": 100})
    assert dummy.tokenizer_for(model) == embedded.path
    with pytest.raises(InputError, match="holds no tokenizer"):
        dummy.tokenizer_for(replace(model, config={"vocab_size": 99}))
    (tmp_path / "tokenizer.json").write_text("{}")
    assert dummy.tokenizer_for(model) == tmp_path
