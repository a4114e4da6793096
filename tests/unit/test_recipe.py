"""The recipe language: what is accepted, and what each misreading is told."""

from pathlib import Path

import pytest

from quantpress import recipe, shipped
from quantpress.errors import InputError

ROOT = Path(__file__).parents[2]
SHIPPED = sorted(path for path in (ROOT / "recipes").rglob("*.yaml"))
GOOD = "name: r\ndescription: d\nmodifiers:\n  - gptq: {scheme: W4A16}\n"


def load(tmp_path: Path, text: str, *settings: str) -> recipe.Recipe:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    return recipe.load(str(path), settings)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_recipe_in_the_tree_is_valid_and_says_what_it_is_for(path: Path) -> None:
    loaded = recipe.load(str(path))
    assert loaded.name == path.stem
    head = path.read_text().split("name:")[0]
    assert "Hardware:" in head
    assert f"make quantize RECIPE=recipes/{path.name}" in head


def test_the_six_recipes_are_shipped() -> None:
    expected = {
        "gptq-w4a16",
        "awq-w4a16",
        "smoothquant-gptq-w8a8",
        "smoothquant-w8a8-static",
        "w8a8-dynamic",
        "rtn-w4a16",
    }
    assert expected <= set(shipped.names("recipes"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_dumped_recipe_is_the_same_recipe(path: Path) -> None:
    loaded = recipe.load(str(path))
    assert recipe.Recipe.model_validate(loaded.dump()) == loaded


def test_every_value_of_actorder_survives_a_dump(tmp_path: Path) -> None:
    for value in ("static", "weight", "none"):
        loaded = load(tmp_path, GOOD.replace("W4A16", f"W4A16, actorder: {value}"))
        assert recipe.Recipe.model_validate(loaded.dump()) == loaded


@pytest.mark.parametrize("text", ["name: 2024-13-01\n", "name: a\x07b\n", "name: !!bool abc\n"])
def test_odd_values_are_problems_not_crashes(text: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"r\.yaml:1:"):
        load(tmp_path, text)


def test_data_free_recipes_get_no_calibration_and_others_do(tmp_path: Path) -> None:
    assert recipe.load("w8a8-dynamic").calibration is None
    assert load(tmp_path, GOOD).calibration == recipe.Calibration().resolved()


def test_set_overrides_one_field(tmp_path: Path) -> None:
    loaded = load(tmp_path, GOOD, "calibration.samples=7", "modifiers.0.gptq.dampening_frac=0.1")
    assert loaded.calibration is not None
    assert loaded.calibration.samples == 7
    assert loaded.modifiers[0].gptq is not None
    assert loaded.modifiers[0].gptq.dampening_frac == 0.1


def test_calibration_overrides_pass_by_a_recipe_without_data() -> None:
    assert recipe.load("w8a8-dynamic", ["calibration.samples=7"]) == recipe.load("w8a8-dynamic")
    with pytest.raises(InputError, match="did you mean 'samples'"):
        recipe.load("gptq-w4a16", ["calibration.smaples=7"])


@pytest.mark.parametrize("name", recipe.RESERVED)
def test_a_recipe_cannot_take_the_folder_of_something_else(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is the name of a folder"):
        load(tmp_path, GOOD.replace("name: r", f"name: {name}"))


BAD = {
    "unknown modifier": ("  - gpqt: {scheme: W4A16}", ":4:5:", "did you mean 'gptq'"),
    "unknown scheme": ("  - gptq: {scheme: W4A61}", ":4:12:", "did you mean 'W4A16'"),
    "unknown field": ("  - gptq: {scheme: W4A16, groupsize: 64}", ":4:27:", "did you mean 'group_size'"),
    "wrong type": ("  - gptq: {scheme: W4A16, block_size: '128'}", ":4:27:", "valid integer"),
    "out of range": ("  - gptq: {scheme: W4A16, dampening_frac: -1}", ":4:27:", "greater than 0"),
    "two in one": ("  - {gptq: {scheme: W4A16}, rtn: {scheme: W8A8}}", ":4:5:", "one modifier per entry"),
    "no body": ("  - gptq:", ":4:5:", "has no body"),
    "a word": ("  - gptq", ":4:5:", "valid dictionary"),
    "wrong order": ("  - rtn: {scheme: W8A8}\n  - smoothquant: {}", ":5:5:", "smoothquant must come before"),
    "nothing quantizes": ("  - smoothquant: {}", ":3:1:", "the result would be a copy"),
    "broken pattern": ("  - rtn: {scheme: W8A8, ignore: ['re:(']}", ":4:34:", "not a regular expression"),
    "static tokens": (
        "  - rtn: {weights: {strategy: channel}, input_activations: {strategy: token}}",
        ":4:41:",
        "needs dynamic: true",
    ),
    "no scheme": ("  - gptq: {}", ":4:5:", "either scheme"),
    "scheme and weights": ("  - rtn: {scheme: W8A8, weights: {strategy: channel}}", ":4:5:", "either scheme"),
    "group size on channels": ("  - rtn: {scheme: W8A8, group_size: 64}", ":4:5:", "group_size cannot be chosen"),
    "strength": (
        "  - smoothquant: {smoothing_strength: 7}\n  - rtn: {scheme: W8A8}",
        ":4:19:",
        "less than or equal to 1",
    ),
    "useless data": ("  - rtn: {scheme: W8A8}\ncalibration: {samples: 4}", ":5:1:", "no modifier here uses data"),
    "duplicate": ("  - rtn: {scheme: W8A8}\nname: other", ":5:1:", "duplicate key 'name' (first on line 1)"),
    "alias": ("  - rtn: &a {scheme: W8A8}\n  - rtn: *a", ":5:", "aliases"),
}


@pytest.mark.parametrize("case", BAD, ids=str)
def test_a_misreading_names_the_spot_and_the_rule(case: str, tmp_path: Path) -> None:
    body, place, words = BAD[case]
    with pytest.raises(InputError) as caught:
        load(tmp_path, f"name: r\ndescription: d\nmodifiers:\n{body}\n")
    assert f"r.yaml{place}" in caught.value.message
    assert words in caught.value.message
    assert caught.value.exit_code == 2


def test_every_problem_is_reported_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        load(tmp_path, "name: R!\ndescripton: d\nmodifiers:\n  - gptq: {scheme: X4, block_size: 0}\n")
    assert caught.value.message.count("r.yaml:") == 5


@pytest.mark.parametrize("text", ["", "- a", "just text", "42"])
def test_a_file_that_is_no_mapping(text: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a mapping of name, description, modifiers"):
        load(tmp_path, text)


def test_text_that_is_not_yaml_names_the_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"r\.yaml:2:\d+: not YAML"):
        load(tmp_path, "name: r\n  description: [\n")


def test_yaml_cannot_make_objects(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"r\.yaml:1:.*the tag .*os\.system' is not allowed"):
        load(tmp_path, "name: !!python/object/apply:os.system ['true']\n")
    with pytest.raises(InputError, match="is not a value"):
        load(tmp_path, "name: !!python/name:os.system\n")


@pytest.mark.parametrize("setting", ["samples", "a..b=1", "name.x=1", "modifiers.9.gptq.x=1"])
def test_a_malformed_override_is_refused(setting: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--set"):
        load(tmp_path, GOOD, setting)


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'gptq-w4a16'"):
        recipe.load("gptq-w4a61")


def test_nesting_without_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nested too deeply"):
        load(tmp_path, "name: " + "[" * 3000 + "]" * 3000)


@pytest.mark.parametrize(
    ("setting", "samples", "datasets"),
    [
        ("tokens=5120", 10, ["quantpress-chat"]),
        ("dataset=c4", 64, ["c4"]),
        ("mixture=[{dataset: c4}, {dataset: wikitext, weight: 2}]", 64, ["c4", "wikitext"]),
    ],
)
def test_an_override_replaces_the_other_way_to_say_it(setting: str, samples: int, datasets: list[str]) -> None:
    calibration = recipe.load("gptq-w4a16", [f"calibration.{setting}"]).calibration
    assert calibration is not None
    assert calibration.samples == samples
    assert [source.dataset for source in calibration.sources] == datasets
