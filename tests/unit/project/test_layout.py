"""The layout's own traps: names that shadow, imports that weigh."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def _python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_import_evaluate_from_the_root_is_hugging_faces() -> None:
    # Which one would be imported; importing it takes ten seconds.
    assert "site-packages" in _python("import importlib.util; print(importlib.util.find_spec('evaluate').origin)")


@pytest.mark.parametrize("folder", ["pipeline", "evaluate", "serve", "recipes", "tests"])
def test_no_package_hides_behind_a_top_level_name(folder: str) -> None:
    assert not (ROOT / folder / "__init__.py").exists()


@pytest.mark.parametrize(
    "module",
    ["quantpress.cli.main", "quantpress_evaluate.stage", "quantpress_serve.bench.stage", "quantpress.report"],
)
def test_the_core_is_light(module: str) -> None:
    heavy = (
        "torch",
        "llmcompressor",
        "transformers",
        "datasets",
        "lm_eval",
        "vllm",
        "scipy",
        "huggingface_hub",
        "httpx",
    )
    code = f"import sys, {module}; print([m for m in {heavy!r} if m in sys.modules])"
    assert _python(code) == "[]"


def test_help_needs_no_schema() -> None:
    code = "import sys, quantpress.cli.main; print('pydantic' in sys.modules, 'yaml' in sys.modules)"
    assert _python(code) == "False False"
