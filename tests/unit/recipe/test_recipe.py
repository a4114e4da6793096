"""The recipe language: what is accepted, and what each misreading is told."""

from pathlib import Path

import pytest

from quantpress.errors import InputError
from quantpress.language import shipped
from quantpress.recipe import recipe
from quantpress.recipe.loading import load_recipe

ROOT = Path(__file__).parents[3]
SHIPPED = sorted(path for path in (ROOT / "recipes").rglob("*.yaml"))
GOOD = "name: r\ndescription: d\nmodifiers:\n  - gptq: {scheme: W4A16}\n"


def load(tmp_path: Path, text: str, *settings: str) -> recipe.Recipe:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    return load_recipe(str(path), settings)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_recipe_in_the_tree_is_valid_and_says_what_it_is_for(path: Path) -> None:
    loaded = load_recipe(str(path))
    assert loaded.name == path.stem
    head = path.read_text().split("name:")[0]
    assert "Hardware:" in head
    assert f"make quantize RECIPE=recipes/{path.name}" in head


def test_the_recipes_are_shipped() -> None:
    expected = {
        "gptq-w4a16-asym",
        "awq-w4a16-asym",
        "w8a16",
        "fp8-dynamic",
        "fp8-static",
        "fp8-block",
        "w4a8",
        "w4afp8",
        "nvfp4",
        "nvfp4a16",
        "mxfp4",
        "kv-fp8",
        "mixed-w4-w8",
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
    loaded = load_recipe(str(path))
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
    assert load_recipe("w8a8-dynamic").calibration is None
    assert load(tmp_path, GOOD).calibration == recipe.Calibration().resolved()


def test_set_overrides_one_field(tmp_path: Path) -> None:
    loaded = load(tmp_path, GOOD, "calibration.samples=7", "modifiers.0.gptq.dampening_frac=0.1")
    assert loaded.calibration is not None
    assert loaded.calibration.samples == 7
    assert loaded.modifiers[0].gptq is not None
    assert loaded.modifiers[0].gptq.dampening_frac == 0.1


def test_calibration_overrides_pass_by_a_recipe_without_data() -> None:
    assert load_recipe("w8a8-dynamic", ["calibration.samples=7"]) == load_recipe("w8a8-dynamic")
    with pytest.raises(InputError, match="did you mean 'samples'"):
        load_recipe("gptq-w4a16", ["calibration.smaples=7"])


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
    "more processes than samples": (
        "  - gptq: {scheme: W4A16}\ncalibration: {samples: 4, processes: 8}",
        ":5:1:",
        "4 samples cannot be shared out among 8 processes",
    ),
    "processes that see apart": (
        "  - sparsegpt: {sparsity: 0.5}\n  - rtn: {scheme: W8A8}\ncalibration: {processes: 2}",
        ":6:1:",
        "processes do not go with sparsegpt",
    ),
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
        load_recipe("gptq-w4a61")


def test_nesting_without_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nested too deeply"):
        load(tmp_path, "name: " + "[" * 3000 + "]" * 3000)


@pytest.mark.parametrize(
    ("setting", "samples", "datasets"),
    [
        ("tokens=5120", 10, ["quantpress-chat"]),
        ("dataset=c4", 128, ["c4"]),
        ("mixture=[{dataset: c4}, {dataset: wikitext, weight: 2}]", 128, ["c4", "wikitext"]),
    ],
)
def test_an_override_replaces_the_other_way_to_say_it(setting: str, samples: int, datasets: list[str]) -> None:
    calibration = load_recipe("gptq-w4a16", [f"calibration.{setting}"]).calibration
    assert calibration is not None
    assert calibration.samples == samples
    assert [source.dataset for source in calibration.sources] == datasets


def write(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def test_a_recipe_extends_another_and_overrides_it(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", GOOD + "calibration: {samples: 4, seed: 1}\n")
    child = "extends: ./base.yaml\nname: c\noverrides: {modifiers.0.gptq.block_size: 64}\ncalibration: {samples: 9}\n"
    loaded = load_recipe(write(tmp_path, "c.yaml", child))
    assert loaded.modifiers[0].gptq is not None
    assert loaded.modifiers[0].gptq.block_size == 64
    assert loaded.calibration is not None
    assert (loaded.name, loaded.calibration.samples, loaded.calibration.seed) == ("c", 9, 1)
    assert "extends" not in loaded.dump()
    assert "overrides" not in loaded.dump()


def test_the_asymmetric_awq_recipe_is_awq_under_its_full_name() -> None:
    ours, base = load_recipe("awq-w4a16-asym"), load_recipe("awq-w4a16")
    assert (ours.modifiers, ours.calibration) == (base.modifiers, base.calibration)


EXTENDED = {
    "itself": ("extends: ./c.yaml\nname: c\n", "without end"),
    "no name": ("extends: ./base.yaml\n", r"c\.yaml:1:1: a recipe that extends another needs a `name`"),
    "unknown": ("extends: gptq-w4a61\nname: c\n", "did you mean 'gptq-w4a16'"),
    "not there": ("extends: ./nowhere.yaml\nname: c\n", "cannot be read"),
    "a folder": ("extends: ../\nname: c\n", "cannot be read"),
    "a list": ("extends: [a]\nname: c\n", r"c\.yaml:.*name it with `extends: NAME`"),
    "overrides alone": (GOOD + "overrides: {name: x}\n", "name it with `extends: NAME`"),
    "overrides of nothing": (
        "extends: ./base.yaml\nname: c\noverrides:\n  modifiers.7.gptq.x: 1\n",
        r"c\.yaml:4:3: 'modifiers\.7\.gptq\.x': there is nothing at '7'",
    ),
    "a wrong override": (
        "extends: ./base.yaml\nname: c\noverrides:\n  modifiers.0.gptq.block_size: -1\n",
        r"c\.yaml:4:3: modifiers\.0\.gptq\.block_size is -1",
    ),
    "overrides in a list": ("extends: ./base.yaml\nname: c\noverrides: [1]\n", "overrides is a mapping"),
    "no recipe": ("extends: ./list.yaml\nname: c\n", "is no recipe to extend"),
}


@pytest.mark.parametrize("case", EXTENDED, ids=str)
def test_a_wrong_extension_is_told_where(case: str, tmp_path: Path) -> None:
    text, words = EXTENDED[case]
    write(tmp_path, "base.yaml", GOOD)
    write(tmp_path, "list.yaml", "- a\n")
    with pytest.raises(InputError, match=words):
        load_recipe(write(tmp_path, "c.yaml", text))


def test_a_problem_of_the_extended_recipe_names_its_file(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", GOOD.replace("W4A16", "W4A61"))
    with pytest.raises(InputError, match=r"base\.yaml:4:12: .*'W4A61' is not a scheme"):
        load_recipe(write(tmp_path, "c.yaml", "extends: ./base.yaml\nname: c\n"))


MORE_BAD = {
    "float of 4 bits": ("rtn: {weights: {num_bits: 4, type: float, strategy: channel}}", "are the presets NVFP4"),
    "blocks without a size": ("rtn: {weights: {strategy: block}}", "block_structure goes with strategy block"),
    "an observer of weights on blocks": (
        "rtn: {weights: {strategy: tensor, observer: imatrix_mse}}",
        "needs strategy channel or group",
    ),
    "nvfp4's observer elsewhere": ("rtn: {scheme: W4A16, weight_observer: nvfp4_expanded_mse}", "is for the presets"),
    "an observer of nothing": ("rtn: {scheme: W4A16, input_observer: mse}", "measures no activations"),
    "groups and scheme": ("rtn: {scheme: W8A8, groups: [{targets: [Linear], scheme: W8A8}]}", "groups have their"),
    "groups and targets": ("rtn: {targets: [a], groups: [{targets: [Linear], scheme: W8A8}]}", "groups have their"),
    "actorder elsewhere": ("rtn: {weights: {strategy: channel, actorder: static}}", "matter of gptq"),
    "a mask that disagrees": ("sparsegpt: {sparsity: 0.4, mask_structure: '2:4'}", "makes 2 of 4 zero, not 0.4"),
    "a mask without quotes": ("sparsegpt: {sparsity: 0.5, mask_structure: 2:4}", "quote it: '2:4'"),
    "awq on tensors": ("awq: {scheme: FP8}", "duo_scaling needs weights in channels"),
    "kv cache of 4 bits": ("rtn: {kv_cache: {num_bits: 4}}", "kv_cache.num_bits is 4"),
    "no size of a rotation": ("spinquant: {transform_block_size: 48}", "a power of two"),
}


@pytest.mark.parametrize("case", MORE_BAD, ids=str)
def test_a_rule_between_fields_names_the_spot(case: str, tmp_path: Path) -> None:
    body, words = MORE_BAD[case]
    with pytest.raises(InputError, match=r"r\.yaml:4:\d+: ") as caught:
        load(tmp_path, f"name: r\ndescription: d\nmodifiers:\n  - {body}\n")
    assert words in caught.value.message


@pytest.mark.parametrize("given", ["tokens: 5120", "mixture: [{dataset: c4}, {dataset: wikitext}]", "dataset: c4"])
def test_a_recipe_that_extends_another_may_say_its_calibration_otherwise(given: str, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(f"extends: gptq-w4a16\nname: mine\ncalibration: {{{given}}}\n")
    calibration = load_recipe(str(tmp_path / "r.yaml")).calibration
    assert calibration is not None
    assert calibration.samples == (10 if "tokens" in given else 128)
    assert calibration.sources[0].dataset == ("quantpress-chat" if "tokens" in given else "c4")


def test_a_value_that_fits_no_member_of_a_union_is_named_by_its_key(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        load(tmp_path, "name: r\ndescription: d\nmodifiers:\n  - rtn: {scheme: W4A16, group_size: 8}\n")
    assert "modifiers.0.rtn.group_size is 8" in caught.value.message
    assert "constrained" not in caught.value.message


MANY = """name: many
description: x
modifiers:
  - rtn: {scheme: W8A8, weights: {num_bits: 4, strategy: channel, group_size: 64, observer: mean}, targets: ["re:("]}
  - smoothquant: {smoothing_strenght: 1}
calibration: {samples: 5, tokens: 100}
"""


def test_no_problem_hides_another(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        load(tmp_path, MANY)
    for words in (
        "give either scheme",
        "observer is 'mean'",
        "is not a regular expression",
        "smoothquant must come before",
        "did you mean 'smoothing_strength'",
        "either samples",
        "100 tokens do not fill",
    ):
        assert words in caught.value.message


def test_every_bad_override_is_reported(tmp_path: Path) -> None:
    text = "extends: gptq-w4a16\nname: x\noverrides:\n  modifiers.3.gptq.x: 1\n  name.foo: 1\n"
    with pytest.raises(InputError) as caught:
        load(tmp_path, text)
    assert "modifiers.3.gptq.x" in caught.value.message
    assert "name.foo" in caught.value.message
