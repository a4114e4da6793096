"""The JSON Schema for editors says what the validator says, as far as a schema can."""

import json
import subprocess
from pathlib import Path

import pytest

from quantpress.errors import CapabilityError
from quantpress.recipe import json_schema
from quantpress_serve.vllm import find_vllm

ROOT = Path(__file__).parents[3]
SHIPPED = sorted((ROOT / "recipes").glob("*.yaml"))
CHECK = """
import json, sys, jsonschema, yaml
schema = json.load(open(sys.argv[1]))
validator = jsonschema.Draft202012Validator(schema)
loaded = {path: yaml.safe_load(open(path)) for path in sys.argv[2:]}
print(json.dumps({path: [e.message for e in validator.iter_errors(data)] for path, data in loaded.items()}))
"""


def test_the_committed_schema_is_the_language_of_today() -> None:
    """Made anew with: quantpress recipes schema > recipes/schema.json"""
    assert (ROOT / "recipes" / "schema.json").read_text() == json_schema.text()


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_recipe_names_the_schema(path: Path) -> None:
    assert path.read_text().startswith("# yaml-language-server: $schema=schema.json\n")


def test_every_shipped_recipe_meets_the_schema_and_a_wrong_one_does_not(tmp_path: Path) -> None:
    """vLLM's environment holds jsonschema, ours does not."""
    try:
        python = find_vllm(None).parent / "python"
    except CapabilityError:
        pytest.skip("jsonschema comes with vLLM, which is not installed here")
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("name: r\ndescription: d\nmodifiers: [{gptq: {scheme: W4A61}, rtn: {scheme: W8A8}}]\n")
    paths = [*map(str, SHIPPED), str(wrong)]
    command = [str(python), "-c", CHECK, str(ROOT / "recipes" / "schema.json"), *paths]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    problems = json.loads(done.stdout)
    assert len(problems.pop(str(wrong))) >= 2
    assert not any(problems.values()), problems
