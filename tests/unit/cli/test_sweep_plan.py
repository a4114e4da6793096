"""The stages of a sweep: which there are, in which order, what each is asked and what it needs."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support import SMALL_LLAMA, planned_from

from quantpress.artifact.accuracy import TRANSFORMERS_ONLY, Accuracy, Decision, Gate
from quantpress.artifact.manifest import Artifact
from quantpress.cli import beforehand, bench, scoring, sweep, sweep_plan
from quantpress.cli.options import taken
from quantpress.cli.sweep import Options
from quantpress.cli.sweep_plan import PlannedCell
from quantpress.errors import CapabilityError, GateError
from quantpress.model.source import Model, read_config
from quantpress.quantize import stage as quantizing
from quantpress.quantize.stage import processes_of
from quantpress.recipe.loading import load_recipe
from quantpress.runtime import environment
from quantpress.sweep import cluster
from quantpress.sweep.file import Cell, read
from quantpress.sweep.placing import Node
from quantpress.sweep.stages import Stage
from quantpress_evaluate.stage import baseline
from quantpress_serve.bench import stage as serving_stage
from quantpress_serve.workload.workload import load_workload

CPU = Node(8, 0, 60 * 10**9)
GPU = Node(64, 8, 500 * 10**9, [80 * 10**9] * 8)


SHARED = """name: mine
description: Sixty-four processes.
modifiers: [{gptq: {scheme: W4A16}}]
calibration: {processes: 64}
"""
LIMITED = ("--limit", "4")


def options(tmp_path: Path, *more: str) -> Options:
    """As the command line gives them."""
    parser = argparse.ArgumentParser()
    sweep.add(parser.add_subparsers())
    words = ["sweep", str(tmp_path / "sweep.yaml"), "--out", str(tmp_path / "out")]
    return taken(Options, parser.parse_args([*words, "--backend", "hf", "--gate", "kl<=0.1", *more]))


@pytest.fixture
def cells(make_model: Callable[..., Path]) -> Callable[[Options], list[PlannedCell]]:
    """Two recipes on one model with a suite, of whose tasks each has 48 documents, and a workload."""
    folder = make_model()
    return lambda asked: _cells(Model("tiny", folder, str(folder), read_config(folder)), asked)


def _cells(model: Model, asked: Options) -> list[PlannedCell]:
    request = scoring.requested(replace(asked.scoring, suite="smoke"), None, "stored")
    tasks = [task.model_copy(update={"available": 48}) for task in request.tasks]
    request = replace(request, tasks=[task.limited(task.limit, request.suite.seed) for task in tasks])
    return [
        PlannedCell(
            cell=Cell("tiny", name, ("smoke",), ("glance",)),
            model=model,
            source=model.source,
            recipe=name,
            plan=planned_from(load_recipe(name), SMALL_LLAMA),
            requests={"smoke": request},
            loads={"glance": load_workload("glance")},
            suites={"smoke": "smoke"},
            workloads={"glance": "glance"},
        )
        for name in ("rtn-w4a16", "w8a8-dynamic")
    ]


@pytest.fixture
def stages(tmp_path: Path, cells: Callable[[Options], list[PlannedCell]]) -> Callable[..., list[Stage]]:
    """Those of the cells on such nodes; by options beyond the usual ones, in place of --limit."""

    def found(node: Node, *more: str) -> list[Stage]:
        asked = options(tmp_path, *(more or LIMITED))
        return sweep_plan.stages(asked, cells(asked), [node])

    return found


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
    assert bench.arguments[:-1] == ["bench", *common, "--workload", "glance"]
    assert bench.arguments[-1].startswith("--largest=")


def test_the_model_is_scored_on_the_documents_of_the_first_look(stages: Callable[..., list[Stage]]) -> None:
    """There are no gates of the model alone, so nothing decides when it has enough documents."""
    whole, begun = stages(CPU, "--extend"), stages(CPU, "--extend", *LIMITED)
    for found, limit in ((whole, 48), (begun, 4)):
        baseline, evaluate = found[1:3]
        assert [word for word in baseline.arguments if word.startswith(("--limit", "--extend"))] == [f"--limit={limit}"]
        assert "--extend" in evaluate.arguments
    assert begun[1].key == stages(CPU)[1].key
    assert whole[1].key == stages(CPU, "--limit", "48")[1].key != begun[1].key


def test_the_model_is_scored_already_only_if_it_was_asked_the_same(
    cells: Callable[[Options], list[PlannedCell]], tmp_path: Path
) -> None:
    def there(*more: str) -> int:
        asked = options(tmp_path, *more)
        found = cells(asked)
        return len(sweep_plan.there(asked, found, sweep_plan.stages(asked, found, [CPU])))

    (one, _) = cells(options(tmp_path, *LIMITED))
    subject = baseline(one.model, tmp_path / "out" / "tiny")
    score = subject.scores_folder(one.requests["smoke"]) / "score.json"
    score.parent.mkdir(parents=True)
    score.write_text("{}")
    assert there(*LIMITED) == there("--extend", *LIMITED) == 1
    assert there("--limit", "8") == 0


@pytest.mark.parametrize("address", [None, "auto"])
def test_the_devices_of_this_machine_are_not_those_of_the_nodes(
    address: str | None, make_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A calibration in 64 processes; on a cluster, placing.options refuses more GPUs than a node has."""
    folder = make_model()
    monkeypatch.setattr(sweep_plan, "check_data", lambda *_: None)  # this model has no tokenizer
    (tmp_path / "mine.yaml").write_text(SHARED)
    (tmp_path / "sweep.yaml").write_text(f"name: a\ndescription: b\nmodels: [{folder}]\nrecipes: [mine.yaml]\n")
    asked, found = options(tmp_path), read(tmp_path / "sweep.yaml")
    asked = replace(asked, address=address, work=replace(asked.work, target="any"))
    if address:
        (cell,) = sweep_plan.planned(asked, found, sweep_plan.named(asked, found))
        assert processes_of(cell.plan) == 64
        return
    with pytest.raises(CapabilityError, match=r"calibration\.processes is 64"):
        sweep_plan.planned(asked, found, sweep_plan.named(asked, found))


def test_a_vllm_that_is_named_by_its_path_is_the_same_in_every_folder(
    stages: Callable[..., list[Stage]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for named, said in (("bin/vllm", f"--vllm={tmp_path}/bin/vllm"), ("vllm", "--vllm=vllm")):
        assert all(said in stage.arguments for stage in stages(CPU, "--vllm", named))


def test_recipes_that_are_compared_are_paired_by_the_largest_of_them(
    cells: Callable[[Options], list[PlannedCell]], tmp_path: Path
) -> None:
    """A server whose checkpoint fits beside the model, and one whose does not, would be measured in two ways."""
    asked = options(tmp_path, *LIMITED)
    found = cells(asked)
    sizes = [cell.plan.checkpoint_bytes for cell in found]
    assert sizes[0] != sizes[1]

    def told(several: list[PlannedCell]) -> list[list[str]]:
        benches = [one for one in sweep_plan.stages(asked, several, [CPU]) if one.verb == "bench"]
        return [[word for word in one.arguments if word.startswith("--largest")] for one in benches]

    assert told(found) == [[f"--largest={max(sizes)}"]] * 2
    assert told([found[0], replace(found[1], loads={})]) == [[]]


@pytest.mark.parametrize("of_head", [[], ["a GPU"]])
def test_what_scores_goes_by_the_nodes_and_not_by_the_head(
    of_head: list[str], stages: Callable[..., list[Stage]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "vllm").touch(mode=0o755)
    monkeypatch.setenv("VLLM", str(tmp_path / "vllm"))
    monkeypatch.setattr(environment, "gpus", lambda: of_head)
    for node, backend in ((CPU, "hf"), (GPU, "vllm")):
        alone = [
            [stage.key for stage in stages(node, "--backend", asked) if stage.verb == "baseline"]
            for asked in ("auto", backend)
        ]
        assert alone[0] == alone[1]


def test_what_each_needs(stages: Callable[[Node], list[Stage]]) -> None:
    on_cpus, on_gpus = stages(CPU), stages(GPU)
    assert [stage.needs.alone for stage in on_cpus[:4]] == [False, False, False, True]
    assert all(stage.needs.gpus == 0 and stage.needs.memory > 5 * 10**8 for stage in on_cpus)
    assert all(stage.needs.gpus == 1 for stage in on_gpus)


def test_a_gate_that_the_bench_took_back_is_not_met(
    cells: Callable[[Options], list[PlannedCell]],
    made: Artifact,
    origin_model: Model,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As with `run`: the engine does not compute what was scored and had passed, which only the bench finds."""
    asked = options(tmp_path)
    asked = replace(asked, work=replace(asked.work, out=made.folder.parents[1]))
    asked.file.write_text("name: a\ndescription: b\nmodels: [m]\nrecipes: [rtn-w4a16]\n")
    cell = replace(cells(asked)[0], model=origin_model)
    monkeypatch.setattr(sweep_plan, "named", lambda *_: None)
    monkeypatch.setattr(sweep_plan, "planned", lambda *_: [cell])
    monkeypatch.setattr(sweep_plan, "stages", lambda *_: [])
    monkeypatch.setattr(cluster, "connected", lambda _: contextlib.nullcontext([]))
    monkeypatch.setattr(sweep, "_followed", lambda *_: [])

    def decided(decision: Decision) -> None:
        gate = Gate(gate="kl<=0.1", decision=decision)
        score = Accuracy.load(made.folder / "accuracy.json")
        score.model_copy(update={"gates": [gate]}).save(made.folder / "accuracy.json")

    decided("pass")
    sweep.run(asked)
    decided(TRANSFORMERS_ONLY)
    with pytest.raises(GateError, match=r"with rtn-w4a16, smoke: kl<=0\.1 was passed for transformers only"):
        sweep.run(asked)


def test_a_bench_takes_the_largest_of_a_sweep_and_people_see_nothing_of_it(
    make_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class ToldError(Exception):
        """What bench knows beforehand, told in place of a measurement."""

    def measured(*asked: Any) -> None:
        raise ToldError(asked[-1].largest)

    (tmp_path / "vllm").touch(mode=0o755)
    monkeypatch.setattr(quantizing, "quantize", lambda *_: SimpleNamespace(artifact=None))
    monkeypatch.setattr(serving_stage, "bench", measured)
    monkeypatch.setattr(serving_stage, "require_servers", lambda *_: None)
    monkeypatch.setattr(beforehand, "require_servers_here", lambda *_: None)
    words = ["bench", "rtn-w4a16", "--model", str(make_model()), "--vllm", str(tmp_path / "vllm"), "--target", "any"]
    for more, largest in (["--largest=5"], 5), ([], 0):
        parser = argparse.ArgumentParser()
        bench.add(parser.add_subparsers())
        with pytest.raises(ToldError, match=f"^{largest}$"):
            bench.run(taken(bench.Options, parser.parse_args([*words, *more])))
    with pytest.raises(SystemExit):
        parser.parse_args(["bench", "--help"])
    assert "--largest" not in capsys.readouterr().out
