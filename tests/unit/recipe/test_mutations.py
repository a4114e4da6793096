"""Broken recipes: whatever is wrong, the answer is exit code 2 with the spot, and no traceback."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from quantpress.cli import main as cli

ROOT = Path(__file__).parents[3]
SHIPPED = sorted((ROOT / "recipes").glob("*.yaml"))
EACH = 12  # of every recipe: more than 200 in all
Node = dict[str, Any] | list[Any]


def _nodes(data: Any) -> Iterator[Node]:
    if isinstance(data, dict | list):
        yield data
        for value in data.values() if isinstance(data, dict) else data:
            yield from _nodes(value)


def _mapping(data: Any, rng: random.Random) -> dict[str, Any]:
    free = ("overrides", "group_0")  # paths, which are reported by what they make, and names that mean nothing
    found = [node for node in _nodes(data) if isinstance(node, dict) and node and not set(free) & node.keys()]
    return rng.choice(found or [data])


def misspell_a_key(data: Any, rng: random.Random) -> None:
    node = _mapping(data, rng)
    key = rng.choice(list(node))
    node[key[:-1] + rng.choice("qxz") + key[-1]] = node.pop(key)


def unknown_key(data: Any, rng: random.Random) -> None:
    _mapping(data, rng)["no_such_field"] = 1


def wrong_type(data: Any, rng: random.Random) -> None:
    node = _mapping(data, rng)
    key = rng.choice(list(node))
    node[key] = [[1]] if isinstance(node[key], dict | str) else {"a": {"b": 1}}


def out_of_range(data: Any, rng: random.Random) -> None:
    value = rng.choice([-1, 10**30, float("nan"), float("inf"), "", "\u0000"])
    fields = {"block_size": -1, "dampening_frac": 7, "n_grid": 0, "group_size": 7, "actorder": "group"}
    for modifier in data.get("modifiers", []):
        for body in modifier.values():
            if "scheme" in body:
                body["scheme"] = rng.choice(["W4A61", value])
            body[rng.choice(list(fields))] = value
            return
    data["name"] = "Not A Name!"


def nothing_left(data: Any, rng: random.Random) -> None:
    data[rng.choice([key for key in ("modifiers", "description", "extends", "name") if key in data])] = None


def wrong_order(data: Any, rng: random.Random) -> None:
    data["modifiers"] = [*data.get("modifiers", [{"rtn": {"scheme": "W8A8"}}]), {"smoothquant": {}}]


def broken_nesting(data: Any, rng: random.Random) -> None:
    key = rng.choice([key for key in data if key not in ("name", "description")])
    data[key] = {key: data[key]} if rng.random() < 0.5 else [data[key]]


def hostile_names(data: Any, rng: random.Random) -> None:
    bad = rng.choice([["re:("], [""], ["re:"], [3], "re:.*", ["re:(?P<a>x)(?P<a>y)"], [None], ["re:" + "(" * 5000]])
    data["modifiers"] = [{"rtn": {"scheme": "W8A8", rng.choice(["targets", "ignore"]): bad}}]
    data.pop("calibration", None)


ON_DATA: list[Callable[[Any, random.Random], None]] = [
    misspell_a_key,
    unknown_key,
    wrong_type,
    out_of_range,
    nothing_left,
    wrong_order,
    broken_nesting,
    hostile_names,
]


def duplicate_line(text: str, rng: random.Random) -> str:
    lines = [line for line in text.splitlines() if line.startswith(("name", "description"))]
    return f"{text}{rng.choice(lines)}\n"


def cut_in_a_bracket(text: str, rng: random.Random) -> str:
    return text + rng.choice(["x: [", "x: {a: ", 'y: "open', "\tz: 1", "a: b: c", "*nowhere", "%YAML 9"]) + "\n"


def odd_value(text: str, rng: random.Random) -> str:
    value = rng.choice(["2024-13-01", "1" + "0" * 5000, "0x" + "f" * 9000, "2:4", "!!python/name:os.system", "&a [*a]"])
    return re.sub(r"^description: .*$", f"description: {value}", text, flags=re.MULTILINE)


ON_TEXT: list[Callable[[str, random.Random], str]] = [duplicate_line, cut_in_a_bracket, odd_value]


def _mutants(path: Path) -> Iterator[str]:
    text = path.read_text()
    for number in range(EACH):
        rng = random.Random(f"{path.stem} {number}")
        if number < 3:
            yield ON_TEXT[number % len(ON_TEXT)](text, rng)
            continue
        data = yaml.safe_load(text)
        ON_DATA[(number + len(path.stem)) % len(ON_DATA)](data, rng)
        yield yaml.safe_dump(data, sort_keys=False)


def test_there_are_more_than_200() -> None:
    assert sum(len(list(_mutants(path))) for path in SHIPPED) > 200


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_broken_recipe_is_exit_2_with_the_spot(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, mutant in enumerate(_mutants(path)):
        broken = tmp_path / f"broken-{number}.yaml"
        broken.write_text(mutant)
        code = cli.main(["recipes", "validate", str(broken)])
        printed = capsys.readouterr()
        assert code == 2, f"{mutant}\n{printed.out}{printed.err}"
        assert re.search(rf"{re.escape(str(broken))}:\d+:\d+: \S", printed.err), f"{mutant}\n{printed.err}"
        assert "Traceback" not in printed.err
        assert "  next: " in printed.err


THEIRS = """
quant_stage:
  quant_modifiers:
    SmoothQuantModifier:
      smoothing_strength: 0.8
      mappings: [[["re:.*q_proj", "re:.*k_proj"], "re:.*input_layernorm"]]
    GPTQModifier:
      ignore: ["lm_head"]
      dampening_frac: 0.01
      config_groups:
        group_0:
          targets: ["Linear"]
          weights: {num_bits: 8, type: "int", symmetric: true, strategy: "channel"}
          input_activations: {num_bits: 8, type: "int", dynamic: true, strategy: "token"}
      kv_cache_scheme: {num_bits: 8, type: float, strategy: tensor, dynamic: false, symmetric: true}
"""
ON_THEIRS: list[Callable[[Any, random.Random], None]] = [misspell_a_key, unknown_key, wrong_type]


def test_a_broken_recipe_of_llmcompressors_is_exit_2_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = tmp_path / "theirs.yaml"
    good.write_text(THEIRS)
    assert cli.main(["recipes", "validate", str(good)]) == 0
    for number in range(90):
        data = yaml.safe_load(THEIRS)
        ON_THEIRS[number % 3](data, random.Random(number))
        broken = tmp_path / f"broken-{number}.yaml"
        broken.write_text(yaml.safe_dump(data, sort_keys=False))
        code = cli.main(["recipes", "validate", str(broken)])
        printed = capsys.readouterr().err
        assert code == 2, f"{broken.read_text()}\n{printed}"
        assert re.search(rf"{re.escape(str(broken))}:\d+:\d+: \S", printed), f"{broken.read_text()}\n{printed}"


SETTINGS = {
    "name=2024-13-01": "quote it",
    "modifiers.0.gptq.block_size=1" + "0" * 5000: "is not a value",
    "modifiers.0.gptq.block_size=0x" + "f" * 9000: "too large",
    "modifiers.0.gptq={scheme: W4A16, scheme: W8A8}": "duplicate key 'scheme'",
    "modifiers.0.gptq.block_size=[": "not YAML",
    "modifiers.0.gptq.blok_size=3": "did you mean 'block_size'",
    "modifiers.0.gptq.dampening_frac=7": "less than or equal to 1",
}


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting[:40])
def test_an_override_is_checked_like_a_file_and_named_as_what_it_is(
    setting: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code = cli.main(["plan", "gptq-w4a16", "--model", str(tmp_path), "--set", setting])
    printed = capsys.readouterr().err
    assert code == 2
    assert f"--set {setting.partition('=')[0]}" in printed
    assert SETTINGS[setting] in printed
    assert "gptq-w4a16.yaml:" not in printed
