"""What names kept scores, and which backend a recipe gets."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from quantpress.runtime import digests
from quantpress_evaluate import suite
from quantpress_evaluate.backend import backend_for
from quantpress_evaluate.request import Request
from quantpress_evaluate.scoring import Subject
from quantpress_evaluate.suite import load_suite

SUBJECT = Subject(role="baseline", path=Path("m"), digest="d", keeps=Path("k"), trust_remote_code=False)


@pytest.fixture
def request_of_smoke() -> Request:
    loaded, path = load_suite("smoke")
    return Request(loaded, suite.resolve_tasks(loaded, path, None, limit=6), backend="hf", compute_dtype="bfloat16")


def test_scores_that_earlier_versions_kept_are_found_again(request_of_smoke: Request) -> None:
    """They lie under the digest of exactly these names; a field more, even one that is None, would be another."""
    settings = request_of_smoke.settings()
    of_tasks = [
        {
            "task": task.task,
            "like": task.like,
            "num_fewshot": None,
            "limit": 6,
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
    assert SUBJECT.key(request_of_smoke.with_limit(7)) != SUBJECT.key(request_of_smoke)
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
    assert backend_for(recipe, asked)[0] == backend
