"""A sweep's file: its cells, its exclusions, and what is wrong with it, by line and column."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from quantpress.errors import InputError
from quantpress.recipe.loading import load_recipe
from quantpress.sweep.file import Cell, read

Written = Callable[[str], Path]


def test_every_recipe_on_every_model(written: Written) -> None:
    cells = read(written("")).cells
    assert [(cell.model, cell.recipe) for cell in cells] == [
        ("embedded", "rtn-w4a16"),
        ("embedded", "w8a8-dynamic"),
        ("org/name", "rtn-w4a16"),
        ("org/name", "w8a8-dynamic"),
    ]
    assert {(cell.suites, cell.workloads) for cell in cells} == {(("smoke",), ("glance", "chat"))}


def test_an_exclusion_leaves_out_the_stages_that_have_all_it_names(written: Written) -> None:
    text = """exclude:
  - {model: org/name, recipe: w8a8-dynamic}
  - {recipe: rtn-w4a16, suite: smoke}
  - {model: embedded, workload: chat}
"""
    assert read(written(text)).cells == [
        Cell("embedded", "rtn-w4a16", (), ("glance",)),
        Cell("embedded", "w8a8-dynamic", ("smoke",), ("glance",)),
        Cell("org/name", "rtn-w4a16", (), ("glance", "chat")),
    ]


WRONG = {
    "exclude:\n  - {recipe: rtn-w4a16, suite: smok}\n": "sweep.yaml:8:25: 'smok' is not among the suites",
    "exclude:\n  - {suite: smoke, workload: chat}\n": "sweep.yaml:8:5: exclude.0: no stage has a suite and a workload",
    "exclude:\n  - {}\n": "sweep.yaml:8:5: exclude.0: name a model",
    "exclude:\n  - {model: null}\n": "sweep.yaml:8:5: exclude.0: name a model",
    "exclude:\n  - {model: embedded}\n  - {model: org/name}\n": "sweep.yaml:7:1: nothing is left to do",
    "excludes: []\n": "sweep.yaml:7:1: unknown key 'excludes'; did you mean 'exclude'?",
    "cluster: {image: i, claim: c, folder: shared, nodes: 1, cpus: 1, memory: 1Gi}\n": "sweep.yaml:7:",
    "name: a\ndescription: b\nmodels: [m, m]\nrecipes: [r]\n": "sweep.yaml:3:13: 'm' is there twice",
    "name: a\ndescription: b\nmodels: []\nrecipes: [r]\n": "sweep.yaml:3:1: models",
    "name: a\ndescription: b\nrecipes: [r]\n": "'models' is missing",
}


@pytest.mark.parametrize("text", WRONG)
def test_what_is_wrong_is_named_with_its_place(text: str, written: Written) -> None:
    with pytest.raises(InputError) as error:
        read(written(text))
    assert WRONG[text] in error.value.message


def test_unknown_names_are_named_with_their_place_all_at_once(written: Written) -> None:
    found = read(written("name: a\ndescription: b\nmodels: [m]\nrecipes: [rtn-w4a1, w8a8-dynamic, mine.yaml]\n"))
    with pytest.raises(InputError) as error:
        found.loaded("recipes", load_recipe, lambda recipe: recipe.name)
    lines = error.value.message.splitlines()
    assert "sweep.yaml:4:11: 'rtn-w4a1' is not a shipped recipe; did you mean 'rtn-w4a16'?" in lines[0]
    assert "sweep.yaml:4:35: " in lines[1] and "mine.yaml: no such file" in lines[1]


def test_two_recipes_of_one_name_would_be_one_artifact(written: Written, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("name: rtn-w4a16\ndescription: x\nmodifiers: [{rtn: {scheme: W4A16}}]\n")
    found = read(written("name: a\ndescription: b\nmodels: [m]\nrecipes: [rtn-w4a16, mine.yaml]\n"))
    with pytest.raises(InputError, match=r"'mine\.yaml' and 'rtn-w4a16' have the same name"):
        found.loaded("recipes", load_recipe, lambda recipe: recipe.name)


def test_paths_are_relative_to_the_file(written: Written, tmp_path: Path) -> None:
    for name in ("models/mine", "embedded", "smoke"):
        (tmp_path / name).mkdir(parents=True)
    found = read(written(""))
    assert found.located("models", "models/mine") == str(tmp_path / "models" / "mine")
    assert found.located("models", "org/name") == "org/name"
    assert found.located("models", "embedded") == "embedded"
    assert found.located("suites", "smoke") == "smoke"
    assert found.located("recipes", "chat.yaml") == str(tmp_path / "chat.yaml")
    assert found.located("workloads", "/a/b.yaml") == "/a/b.yaml"


def test_a_model_beside_the_caller_and_not_beside_the_file_is_refused(
    written: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With --model it would be that folder, and on a node it would be asked of the hub."""
    here = tmp_path / "here"
    (here / "org" / "name").mkdir(parents=True)
    monkeypatch.chdir(here)
    found = read(written(""))
    with pytest.raises(InputError, match=r"sweep\.yaml:3:20: 'org/name' is in the working folder .* relative to this"):
        found.loaded("models", lambda name: name, lambda name: name)
    (tmp_path / "org" / "name").mkdir(parents=True)
    assert found.located("models", "org/name") == str(tmp_path / "org" / "name")
