"""The stages of a sweep: which there are, in which order, what each is asked and what it needs."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from support import SMALL_LLAMA, planned_from

from quantpress.cli import scoring, sweep, sweep_plan
from quantpress.cli.options import taken
from quantpress.cli.sweep import Options
from quantpress.cli.sweep_plan import PlannedCell
from quantpress.model.source import Model, read_config
from quantpress.recipe.loading import load_recipe
from quantpress.sweep.file import Cell
from quantpress.sweep.placing import Node
from quantpress.sweep.stages import Stage
from quantpress_serve.workload.workload import load_workload

CPU = Node(8, 0, 60 * 10**9)
GPU = Node(64, 8, 500 * 10**9, [80 * 10**9] * 8)


def options(tmp_path: Path) -> Options:
    """As the command line gives them."""
    parser = argparse.ArgumentParser()
    sweep.add(parser.add_subparsers())
    words = ["sweep", str(tmp_path / "sweep.yaml"), "--out", str(tmp_path / "out")]
    return taken(Options, parser.parse_args([*words, "--backend", "hf", "--gate", "kl<=0.1", "--limit", "4"]))


@pytest.fixture
def stages(tmp_path: Path, make_model: Callable[..., Path]) -> Callable[[Node], list[Stage]]:
    """Those of two recipes on one model with a suite and a workload, on such nodes."""
    folder = make_model()
    model, asked = Model("tiny", folder, str(folder), read_config(folder)), options(tmp_path)
    request = scoring.requested(replace(asked.scoring, suite="smoke"), None, "stored")
    cells = [
        PlannedCell(
            cell=Cell("tiny", name, ("smoke",), ("glance",)),
            model=model,
            source=str(folder),
            recipe=name,
            plan=planned_from(load_recipe(name), SMALL_LLAMA),
            requests={"smoke": request.for_checkpoint(None)[0]},
            loads={"glance": load_workload("glance")},
            suites={"smoke": "smoke"},
            workloads={"glance": "glance"},
        )
        for name in ("rtn-w4a16", "w8a8-dynamic")
    ]
    return lambda node: sweep_plan.stages(asked, cells, [node])


def test_the_model_itself_is_scored_once(stages: Callable[[Node], list[Stage]]) -> None:
    found = stages(CPU)
    assert [(stage.verb, stage.recipe) for stage in found] == [
        ("quantize", "rtn-w4a16"),
        ("baseline", None),
        ("evaluate", "rtn-w4a16"),
        ("bench", "rtn-w4a16"),
        ("quantize", "w8a8-dynamic"),
        ("evaluate", "w8a8-dynamic"),
        ("bench", "w8a8-dynamic"),
    ]
    quantize, baseline, evaluate, bench = found[:4]
    assert evaluate.requires == [quantize.key, baseline.key]
    assert found[5].requires == [found[4].key, baseline.key]
    assert (bench.requires, bench.after) == ([quantize.key], [quantize.key, evaluate.key])
    seen: set[str] = set()
    for stage in found:
        assert seen >= {*stage.after, *stage.requires}, stage.title
        seen.add(stage.key)
    assert len({stage.file_name for stage in found}) == len(found)


def test_each_stage_is_a_command_that_runs_by_hand(stages: Callable[[Node], list[Stage]], tmp_path: Path) -> None:
    quantize, baseline, evaluate, bench = stages(CPU)[:4]
    common = ["rtn-w4a16", "--model", str(tmp_path / "tiny"), f"--out={tmp_path / 'out'}"]
    assert quantize.arguments == ["quantize", *common]
    scored = ["evaluate", *common, "--suite", "smoke", "--backend=hf", "--limit=4"]
    assert evaluate.arguments == [*scored, "--gate=kl<=0.1"]
    assert baseline.arguments == [*scored, "--only-model"]
    assert bench.arguments == ["bench", *common, "--workload", "glance"]


def test_what_each_needs(stages: Callable[[Node], list[Stage]]) -> None:
    on_cpus, on_gpus = stages(CPU), stages(GPU)
    assert [stage.needs.alone for stage in on_cpus[:4]] == [False, False, False, True]
    assert all(stage.needs.gpus == 0 and stage.needs.memory > 5 * 10**8 for stage in on_cpus)
    assert all(stage.needs.gpus == 1 for stage in on_gpus)
