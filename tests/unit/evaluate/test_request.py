"""What names kept scores, and which backend a recipe gets."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from quantpress.cli import scoring as cli_scoring
from quantpress.errors import CapabilityError, InputError
from quantpress.recipe.loading import load_recipe
from quantpress.recipe.truthful import untruthful
from quantpress.runtime import atomic, digests, environment
from quantpress_evaluate import request, scoring, stage, suite
from quantpress_evaluate.backend import backend_for
from quantpress_evaluate.comparison import gates
from quantpress_evaluate.request import Request
from quantpress_evaluate.scoring import Subject
from quantpress_evaluate.suite import load_suite
from quantpress_serve.workload.engine import Engine

SUBJECT = Subject(role="baseline", path=Path("m"), digest="d", keeps=Path("k"), trust_remote_code=False)


@pytest.fixture
def request_of_smoke() -> Request:
    loaded, path = load_suite("smoke")
    return Request(loaded, suite.resolve_tasks(loaded, path, None), backend="hf", compute_dtype="bfloat16")


def test_scores_that_earlier_versions_kept_are_found_again(request_of_smoke: Request) -> None:
    """They lie under the digest of exactly these names; a field more, even one that is None, would be another."""
    settings = request_of_smoke.settings()
    of_tasks = [
        {
            "task": task.task,
            "like": task.like,
            "num_fewshot": None,
            "limit": None,
            "documents": None,
            "sha256": task.sha256,
        }
        for task in request_of_smoke.tasks
    ]
    named: dict[str, Any] = {
        "batch_size": 16,
        "max_length": 4096,
        "chat_template": False,
        "stage": settings.stage,
        "backend": "hf",
        "compute_dtype": "bfloat16",
        "device": settings.device,
        "versions": settings.versions,
    }
    scores = {"model": "d", "settings": named | {"suite": "smoke", "tasks": of_tasks}}
    assert SUBJECT.key(request_of_smoke) == digests.sha256_json(scores)
    answers = digests.sha256_json({"model": "d", "settings": named})
    assert SUBJECT.answers_file(request_of_smoke).name == f".requests-{answers[:12]}"


def test_metric_and_weight_choose_among_scores_and_are_no_reason_to_score_again(request_of_smoke: Request) -> None:
    first, *others = request_of_smoke.tasks
    heavy = first.model_copy(update={"weight": 3.0, "metric": "acc_norm", "available": 48, "definition": {"a": "b"}})
    assert SUBJECT.key(replace(request_of_smoke, tasks=[heavy, *others])) == SUBJECT.key(request_of_smoke)
    drawn = request_of_smoke.with_limit(7)
    assert SUBJECT.key(drawn) != SUBJECT.key(request_of_smoke)
    other = replace(drawn, suite=drawn.suite.model_copy(update={"seed": 1})).with_limit(7)
    assert SUBJECT.key(other) != SUBJECT.key(drawn)
    assert SUBJECT.answers_file(other) == SUBJECT.answers_file(drawn)
    assert SUBJECT.key(request_of_smoke.in_other_batches()) != SUBJECT.key(request_of_smoke)


@pytest.mark.parametrize(
    ("rotations", "asked", "backend"),
    [(["R1", "R2"], "auto", "hf"), (["R1", "R4"], "auto", "vllm"), (["R4"], "hf", "hf"), (["R1"], "vllm", "vllm")],
    ids=str,
)
def test_a_recipe_is_scored_by_vllm_only_where_transformers_would_compute_something_else(
    rotations: list[str], asked: str, backend: str
) -> None:
    recipe = {"modifiers": [{"spinquant": {"rotations": rotations}}, {"rtn": {"scheme": "W8A8"}}]}
    assert backend_for(untruthful(recipe), asked)[0] == backend


@pytest.mark.parametrize(
    ("asked", "backend", "reason"),
    [("auto", "vllm", "it is what serves on this machine's GPUs"), ("hf", "hf", "asked for")],
)
def test_on_gpus_the_engine_that_will_serve_scores(
    asked: str, backend: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "gpus", lambda: ["one"])
    assert backend_for(None, asked) == (backend, reason)


def test_without_vllm_on_gpus_transformers_has_to_be_asked_for(
    request_of_smoke: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_auto = replace(request_of_smoke, backend="auto", vllm="/nowhere/vllm")
    with pytest.raises(CapabilityError) as caught:
        cli_scoring._vllm_to_score(by_auto)
    assert "--backend hf" in str(caught.value.hint)
    with pytest.raises(CapabilityError) as caught:
        cli_scoring._vllm_to_score(replace(by_auto, backend="vllm"))
    assert "--backend hf" not in str(caught.value.hint)


def test_an_engine_names_scores_only_where_it_may_change_them(request_of_smoke: Request) -> None:
    """So what earlier versions scored with vLLM is not scored again."""
    by_vllm = replace(request_of_smoke, backend="vllm", vllm=sys.executable)
    usual = by_vllm.settings()
    assert "engine" not in usual.decisive()
    for engine in (Engine(tensor_parallel_size=1), Engine(gpu_memory_utilization=0.5, max_model_len=512)):
        assert SUBJECT.key(replace(by_vllm, engine=engine)) == SUBJECT.key(by_vllm)
    split = replace(by_vllm, engine=Engine(tensor_parallel_size=2))
    assert split.settings().decisive() == usual.decisive() | {"engine": {"tensor-parallel-size": 2}}
    assert SUBJECT.answers_file(split) != SUBJECT.answers_file(by_vllm)
    assert SUBJECT.key(replace(split, backend="hf")) == SUBJECT.key(request_of_smoke)


@pytest.fixture
def small_gpus(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Two GPUs of 8 GB, and a plan for a model of 30 GB."""
    monkeypatch.setattr(environment, "gpus", lambda: ["one", "two"])
    monkeypatch.setattr(environment, "gpu_memory", lambda: [8 * 10**9] * 2)
    monkeypatch.setattr(request.backend, "context", lambda path, wanted: wanted)
    recipe = load_recipe("w8a8-dynamic")
    structure = SimpleNamespace(linears={})
    return SimpleNamespace(
        recipe=recipe, schemes={}, structure=structure, weight_bytes=30 * 10**9, checkpoint_bytes=15 * 10**9
    )


def test_a_model_that_fits_no_gpus_is_refused_where_vllm_scores(small_gpus: Any, request_of_smoke: Request) -> None:
    model: Any = SimpleNamespace(path=Path("m"), config={"num_attention_heads": 4})
    by_vllm = replace(request_of_smoke, backend="auto")
    with pytest.raises(CapabilityError, match="do not fit 2 GPUs"):
        by_vllm.for_plans([small_gpus], model)
    by_hf = request_of_smoke.for_plans([small_gpus], model)
    assert (by_hf, by_hf.by_the_other_backend()) == (request_of_smoke, None)
    small_gpus.weight_bytes = 10 * 10**9
    small_gpus.checkpoint_bytes = 5 * 10**9
    assert by_vllm.for_plans([small_gpus], model).engine.tensor_parallel_size == 2


@pytest.mark.parametrize(("number", "split"), [(1, False), (2, True)])
def test_the_command_by_hand_splits_a_model_as_the_worker_does(
    number: int, split: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "gpu_memory", lambda: [8 * 10**9] * number)
    job: Any = SimpleNamespace(
        **{"server": None, "model": Path("/m"), "compute_dtype": "auto", "max_length": 64, "batch_size": 2},
        **{"device": "cuda", "trust_remote_code": False},
    )
    assert ("parallelize=True" in scoring._model_arguments(job)) is split
    job.device = "cpu"
    assert "parallelize" not in scoring._model_arguments(job)


# The worker is slower than real ones are to start, so that both runs are sure to meet; lm-eval is not needed for that.
WORKER = """
import time
from quantpress_evaluate.workers import TASKS, CheckedTasks

def slow(job):
    (job.output / "mine").write_text("")
    time.sleep(1)
    assert (job.output / "mine").exists(), "the folder is gone"
    return CheckedTasks(tasks=[task.model_copy(update={"available": 1}) for task in job.tasks])

raise SystemExit(TASKS.main(slow))
"""
ASK = """
import sys
from dataclasses import replace
from quantpress_evaluate import request, suite, workers
workers.TASKS = replace(workers.TASKS, module="slow_worker")
loaded, path = suite.load_suite("smoke")
known = request.checked(request.Request(loaded, suite.resolve_tasks(loaded, path, None)))
print(*{task.available for task in known.tasks})
"""


def test_two_evaluations_at_once_on_a_fresh_cache_ask_once(tmp_path: Path) -> None:
    (tmp_path / "slow_worker.py").write_text(WORKER)
    paths = os.pathsep.join((str(tmp_path), os.environ.get("PYTHONPATH", "")))
    alone = os.environ | {"QUANTPRESS_CACHE": str(tmp_path / "cache"), "PYTHONPATH": paths}

    def ask(_: int) -> "subprocess.CompletedProcess[str]":
        return subprocess.run([sys.executable, "-c", ASK], env=alone, capture_output=True, text=True, check=False)

    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(ask, range(2)))
    said = both[0].stderr + both[1].stderr
    assert [(run.returncode, run.stdout) for run in both] == [(0, "1\n")] * 2, said
    assert said.count("… checking the tasks of smoke") == said.count("… waiting for another run") == 1


def test_kept_tasks_that_are_damaged_are_asked_for_again(tmp_path: Path) -> None:
    (tmp_path / "slow_worker.py").write_text(WORKER.replace("sleep(1)", "sleep(0)"))
    paths = os.pathsep.join((str(tmp_path), os.environ.get("PYTHONPATH", "")))
    alone = os.environ | {"QUANTPRESS_CACHE": str(tmp_path / "cache"), "PYTHONPATH": paths}
    # Of none, of no tasks, and an edit: the last file that was kept, with another number in it.
    for damage in ("", "{}", '{"kept": {"tasks": {}}}', "edited"):
        for kept in (tmp_path / "cache" / "tasks").glob("*.json"):
            kept.write_text(kept.read_text().replace('"weight": 1', '"weight": 2') if damage == "edited" else damage)
        done = subprocess.run([sys.executable, "-c", ASK], env=alone, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr


def test_the_other_backend_is_the_one_that_did_not_score(request_of_smoke: Request) -> None:
    by_vllm = replace(request_of_smoke, backend="vllm", vllm=sys.executable)
    other = by_vllm.by_the_other_backend()
    assert other
    assert (other.backend, other.tasks) == ("hf", by_vllm.tasks)
    back = replace(by_vllm, backend="hf").by_the_other_backend()
    assert back == by_vllm
    assert replace(request_of_smoke, vllm="/nowhere/vllm").by_the_other_backend() is None


def test_other_calibrations_are_scored_on_the_documents_that_the_first_came_to(request_of_smoke: Request) -> None:
    known = [task.model_copy(update={"available": 48}) for task in request_of_smoke.tasks]
    asked = replace(request_of_smoke, tasks=known, extend=True)
    again = asked.as_scored(asked.with_limit(24).settings())
    assert ([task.limit for task in again.tasks], again.extend) == ([24] * 4, False)
    assert [task.limit for task in asked.as_scored(asked.with_limit(48).settings()).tasks] == [None] * 4


def test_a_gate_may_name_a_task_of_a_group_which_lm_eval_alone_knows(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "s.yaml"
    file.write_text("{name: s, description: d, tasks: [{task: mmlu}], gates: ['mmlu_law:recovery>=0.9']}")

    def answered(asked: Request, kept: Path, staged: Path) -> None:
        (group,) = asked.tasks
        leaves = [group.model_copy(update={"task": f"mmlu_{name}", "available": 9}) for name in ("art", "law")]
        atomic.write_kept(kept, request.KnownTasks(tasks=leaves).dump())

    monkeypatch.setenv("QUANTPRESS_CACHE", str(tmp_path))
    monkeypatch.setattr(request, "_ask", answered)
    asked = cli_scoring.Scoring(str(file), None, "hf", [], False, False, False, None)
    known = request.checked(cli_scoring.requested(asked, None, "auto"))
    assert [gate.task for gate in known.gates] == ["mmlu_law"]
    again = cli_scoring.requested(replace(asked, gate=["mmlu_law:recovery>=0.9"]), None, "auto")
    assert len(again.gates) == 1  # though the suite has it too, as commands in reports name it
    for task, words in (("mmlu", "'mmlu' is a group"), ("mmlu_lax", "'mmlu_lax' is not a task of the suite")):
        wrong = cli_scoring.requested(replace(asked, gate=[f"{task}:kl<=1"]), None, "auto")
        with pytest.raises(InputError, match=words) as refused:
            request.checked(wrong)
        assert refused.value.hint == "its tasks: mmlu_art, mmlu_law"


def test_all_documents_are_tried_where_more_of_them_may_be_scored(
    request_of_smoke: Request, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """lm-eval is not asked: what it would answer is that each task has 48 documents."""
    tried = []

    def answered(asked: Request, kept: Path, staged: Path) -> None:
        tried.append([task.limit for task in asked.tasks])
        tasks = [task.model_copy(update={"available": 48}) for task in asked.tasks]
        atomic.write_kept(kept, request.KnownTasks(tasks=tasks).dump())

    monkeypatch.setenv("QUANTPRESS_CACHE", str(tmp_path))
    monkeypatch.setattr(request, "_ask", answered)
    gate = gates.parse("kl<=1")
    growing = replace(request_of_smoke.with_limit(8), gates=(gate,), extend=True)
    known = request.checked(growing)
    few = request.checked(request_of_smoke.with_limit(8))
    assert tried == [[None] * 4, [8] * 4]
    assert {(task.limit, task.seed) for task in few.tasks} == {(8, 0)}
    assert known.with_limit(8).tasks == few.tasks
    assert stage._limits(known) == [8, 16, 32, 48]
    assert stage._limits(request.checked(replace(growing, tasks=growing.with_limit(60).tasks))) == [48]
