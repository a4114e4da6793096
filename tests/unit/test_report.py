"""The report is made from the stages' JSON alone; here that JSON is made by hand, with stages missing and failed."""

from pathlib import Path
from typing import Any

import pytest

from quantpress import files, report
from quantpress.console import Console
from quantpress.errors import InputError

MODEL: dict[str, Any] = {
    "name": "tiny",
    "source": "embedded",
    "digest": "ab" * 32,
    "notes": ["Its weights lie on a 4-bit grid."],
}
MANIFEST = {
    "schema_version": 4,
    "digest": "d1",
    "recipe": {},
    "files": {},
    "machine": {},
    "bytes": {"model": 200_000_000, "checkpoint": 50_000_000},
    "calibration": None,
    "group_size": 64,
    "quantized_layers": 14,
    "seconds": 9.0,
    "scales": "group of 64",
    "warnings": [],
    "model": {"digest": "ab" * 32},
    "created": "2026-01-01T00:00:00Z",
    "inputs": {"versions": {"llmcompressor": "0.14"}},
}
ROW = {
    "metric": "acc",
    "documents": 48,
    "baseline": 0.5,
    "candidate": 0.25,
    "difference": -0.25,
    "p_value": 0.001,
    "significant": True,
    "flips": 0.3,
    "recovery": 0.5,
    "recovery_interval": [0.4, 0.6],
    "kl": 0.1,
    "no_signal": False,
}
LOOK = {"confidence": 0.95, "documents": 48}
ACCURACY = {
    "schema_version": 4,
    "checkpoint_digest": "d1",
    "tasks": {"boolq": ROW, "piqa": {**ROW, "significant": False, "no_signal": True, "p_value": 0.5}},
    "mean": {"tasks": 1, "baseline": 0.5, "candidate": 0.25},
    "overall": {"recovery": 0.5, "recovery_interval": [0.4, 0.6], "flips": 0.3, "kl": 0.1},
    "gates": [{"gate": "recovery>=0.99", "figure": 0.5, "interval": [0.4, 0.6], "decision": "fail"} | LOOK],
    "settings": {"backend": "hf"},
    "runs": {"candidate": {"command": "lm_eval run --tasks boolq"}},
}
FIGURES = {"output_throughput": 10.0, "median_ttft_ms": 5.0, "median_tpot_ms": 2.0}
THROUGHPUT = {
    "schema_version": 4,
    "checkpoint_digest": "d1",
    "machine": {"processor": "CPU", "gpus": [], "cores": 2},
    "workload": {"name": "smoke"},
    "vllm": {"version": "0.32"},
    "servers": {"candidate": {"command": "vllm serve x", "startup_s": 9.0}},
    "cells": [{"command": "vllm bench serve"}],
    "answers": {"candidate": {"question": "q?", "answer": "a|b\nc"}, "baseline": {"answer": "ok"}},
    "summary": [
        {
            "concurrency": 1,
            "failed_requests": 0,
            "candidate": FIGURES,
            "baseline": FIGURES,
            "ratios": [0.9, 1.0, 1.1],
            "speedup": 1.0,
            "interval": [0.9, 1.1],
        }
        | {"verdict": "no difference shown"},
        {"concurrency": 8, "failed_requests": 3, "candidate": FIGURES},
    ],
}


def rendered(folder: Path, **results: Any) -> str:
    for name, value in {"manifest": MANIFEST, **results}.items():
        files.write_json(folder / "r4" / f"{name}.json", value)
    return report.render(MODEL, report.collect(folder, MODEL["digest"], Console(quiet=True)))


def test_a_full_report_says_everything(tmp_path: Path) -> None:
    text = rendered(tmp_path, accuracy=ACCURACY, throughput=THROUGHPUT)
    assert "4-bit grid" in text
    assert "| r4 | 50 MB | 25% | 14 | group of 64 | none needed | 9 s |" in text
    assert (
        "| r4 | boolq | 48 | acc | 0.500 | 0.250 | -0.250 | 0.001 | 0.500 (0.400 to 0.600) | 30.0% | 0.1000 |" in text
    )
    assert "piqa (*no signal*)" in text
    assert "-0.250 (within chance)" in text
    assert "1.00 (0.90 to 1.10, 3 pairs) | no difference shown" in text
    assert "not measured | no baseline; 3 requests failed" in text
    assert r"a\|b c" in text
    assert "`lm_eval run --tasks boolq`" in text


def test_missing_stages_are_named(tmp_path: Path) -> None:
    text = rendered(tmp_path)
    assert text.count("Not measured") == 2


def test_a_result_of_another_checkpoint_is_not_shown(tmp_path: Path) -> None:
    text = rendered(tmp_path, accuracy={**ACCURACY, "checkpoint_digest": "old"})
    assert "boolq" not in text


def test_an_artifact_of_another_model_is_left_out(tmp_path: Path) -> None:
    files.write_json(tmp_path / "mine" / "manifest.json", MANIFEST)
    files.write_json(tmp_path / ".r4.staging-1" / "manifest.json", MANIFEST)
    text = rendered(tmp_path, manifest={**MANIFEST, "model": {"digest": "another"}})
    assert "| mine |" in text
    assert "r4" not in text


def test_servers_of_someone_else_are_not_called_this_machine(tmp_path: Path) -> None:
    servers = {"candidate": {"command": "(served at http://x)", "startup_s": None}}
    text = rendered(tmp_path, throughput={**THROUGHPUT, "servers": servers})
    assert "whose hardware and settings are not known" in text
    assert "CPU, 2 cores" not in text


def test_warnings_are_repeated(tmp_path: Path) -> None:
    assert "- **r4**: too little data" in rendered(tmp_path, manifest={**MANIFEST, "warnings": ["too little data"]})


def test_every_table_row_has_as_many_cells_as_its_header(tmp_path: Path) -> None:
    lines = rendered(tmp_path, accuracy=ACCURACY, throughput=THROUGHPUT).splitlines()
    width = 0
    for before, line in zip(["", *lines], lines, strict=False):
        if line.startswith("|"):
            cells = line.replace(r"\|", "").count("|")
            width = cells if not before.startswith("|") else width
            assert cells == width


def test_nothing_to_report(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no artifact"):
        report.collect(tmp_path, MODEL["digest"], Console(quiet=True))


def test_recovery_and_gates_are_shown() -> None:
    text = report.accuracy_section({"r4": ACCURACY})
    assert "0.500 (0.400 to 0.600)" in text
    assert "| r4 | `recovery>=0.99` | 0.5 | 0.4 to 0.6 at 0.95 | 48 | **fail** |" in text
    assert "Gates" not in report.accuracy_section({"r4": {**ACCURACY, "gates": []}})


def test_the_noise_floor_is_a_row() -> None:
    floor = {"recovery": 1.0, "recovery_interval": [1.0, 1.0], "flips": 0.01, "kl": 0.0023}
    text = report.accuracy_section({"r4": {**ACCURACY, "noise_floor": floor}})
    assert "noise floor: the model against itself |  |  |  |  |  |  | 1.000 (1.000 to 1.000) | 1.0% | 0.0023 |" in text


def test_figures_that_are_none(tmp_path: Path) -> None:
    row = {**ROW, "recovery": None, "recovery_interval": None}
    gate = {"gate": "recovery>=0.99", "figure": None, "interval": None, "decision": "inconclusive"} | LOOK
    text = report.accuracy_section({"r4": {**ACCURACY, "tasks": {"boolq": row}, "gates": [gate]}})
    assert "| none | 30.0% |" in text
    assert "| none | none | 48 | **inconclusive** |" in text


def test_what_a_throughput_says_beside_its_figures(tmp_path: Path) -> None:
    saturated = {"concurrency": 16, "gained": 0.021, "left_out": [32, 64]}
    more = {"complete": False, "ended": "the server of r4 stopped", "saturated": saturated, "weight_bits": [4]}
    text = rendered(tmp_path, throughput={**THROUGHPUT, **more})
    assert "- **r4**: incomplete: the server of r4 stopped" in text
    assert "saturated at concurrency 16 (+2.1% output tokens/s over the step before); left out: 32, 64" in text
    assert "no speed-up (1 at once): on a CPU, vLLM unpacks weights" in text
    assert "unpacks" not in rendered(tmp_path, throughput={**THROUGHPUT, "weight_bits": [8]})


def test_dummy_weights_have_a_section_of_their_own(tmp_path: Path) -> None:
    assert report.dummy_section(tmp_path) == ""
    files.write_json(tmp_path / "dummy" / "w8a8" / "throughput.json", {**THROUGHPUT, "weights": "dummy"})
    text = report.dummy_section(tmp_path)
    assert "## Speed with dummy weights" in text
    assert "weights: **dummy**" in text
    assert "| w8a8 | smoke | 1 at once |" in text
    with pytest.raises(InputError, match="holds no artifact"):
        report.collect(tmp_path, MODEL["digest"], Console(quiet=True))
