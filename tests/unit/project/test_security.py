"""One test for each rule of safety."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quantpress import errors
from quantpress.errors import slug
from quantpress.runtime import process

Run = Callable[..., Any]
ROOT = Path(__file__).parents[3]
SECRET = "hf_averysecretvalue123"


@pytest.mark.parametrize("command", ["quantize", "evaluate", "bench"])
def test_yaml_builds_no_objects(command: str, tmp_path: Path, quantpress: Run) -> None:
    bomb = f'!!python/object/apply:os.system ["touch {tmp_path}/hit"]'
    recipe = f"name: {bomb}\ndescription: x\nmodifiers: [{{rtn: {{scheme: W8A8}}}}]\n"
    (tmp_path / "evil.yaml").write_text(recipe)
    named = {"quantize": ["evil.yaml"], "evaluate": ["rtn-w4a16", "--suite", "evil.yaml"]}
    done = quantpress(command, *named.get(command, ["rtn-w4a16", "--workload", "evil.yaml"]))
    assert done.returncode == 2
    assert "evil.yaml:1:" in done.stderr
    assert not (tmp_path / "hit").exists()


def test_no_pickle_is_read(tmp_path: Path, make_model: Callable[..., Path], quantpress: Run) -> None:
    model = make_model()
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    done = quantpress("quantize", "rtn-w4a16", "--model", str(model))
    assert done.returncode == 2
    assert "safetensors only" in done.stderr


def test_no_file_gives_orders_to_the_terminal(tmp_path: Path, quantpress: Run) -> None:
    """What a terminal would obey (here: clear the screen, write from right to left) is shown as what it is."""
    recipe = 'name: x\ndescription: d\nmodifiers: [{rtn: {scheme: "\\e[2J\\u202eW8A8"}}]\n'
    (tmp_path / "evil.yaml").write_text(recipe)
    done = quantpress("plan", "evil.yaml")
    assert done.returncode == 2
    assert "evil.yaml:3:" in done.stderr
    assert not {"\x1b", "\u202e"} & set(done.stdout + done.stderr)
    done = quantpress("plan", "no\x1b[2Jsuch")
    assert "no\\x1b[2Jsuch" in done.stderr
    assert errors.printable("a\tb\nc\x9b1m é") == "a\tb\nc\\x9b1m é"


def test_no_code_of_ours_unpickles_or_evaluates() -> None:
    forbidden = r"import pickle|torch\.load\(|\beval\(|\bexec\(|\byaml\.(unsafe_)?load\(|shell=True"
    sources = [path for name in ("pipeline", "evaluate", "serve") for path in (ROOT / name).rglob("*.py")]
    assert len(sources) > 20
    found = [path.name for path in sources if re.search(forbidden, re.sub(r"located_yaml\.load", "", path.read_text()))]
    assert found == []


@pytest.mark.parametrize("name", ["../up", "/abs", "a/b", "..", ".", "", "a\\0b", "x" * 300, "logs", "baseline"])
def test_a_recipes_name_cannot_leave_the_output_folder(name: str, tmp_path: Path, quantpress: Run) -> None:
    text = f"name: {json.dumps(name)}\ndescription: x\nmodifiers: [{{rtn: {{scheme: W8A8}}}}]\n"
    (tmp_path / "r.yaml").write_text(text)
    done = quantpress("quantize", "r.yaml")
    assert done.returncode == 2
    assert not (tmp_path / "artifacts").exists()


@pytest.mark.parametrize("name", ["..", ".", "../../etc", "/etc", "a/../../b", "~root", "a\0b", "", "..."])
def test_a_models_name_is_one_component_of_a_path(name: str) -> None:
    safe = slug(name)
    assert safe not in ("", ".", "..")
    assert os.sep not in safe
    assert not safe.startswith(".")


def test_tools_cannot_print_secrets_into_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    log = tmp_path / "tool.log"
    assert process.run(["bash", "-c", 'echo "before $HF_TOKEN after"; exit 3'], log) == 3
    assert log.read_text() == "before *** after\n"


def test_a_url_with_a_password_is_refused_without_repeating_it(
    quantpress: Run, make_model: Callable[..., Path]
) -> None:
    url = f"http://me:{SECRET}@127.0.0.1:9"
    done = quantpress("bench", "rtn-w4a16", "--model", str(make_model()), "--vllm-url", url)
    assert done.returncode == 2
    assert "password" in done.stderr
    assert SECRET not in done.stderr + done.stdout
