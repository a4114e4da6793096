"""What is kept of tasks is believed only as far as we made it: a task's YAML may name Python functions."""

from __future__ import annotations

import importlib.util
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from quantpress.errors import CapabilityError
from quantpress.language import shipped
from quantpress.runtime import atomic
from quantpress.runtime.cache import cache_folder
from quantpress_evaluate import request, suite, tasks_worker, workers
from quantpress_evaluate.kept_tasks import is_ours, kept_tasks
from quantpress_evaluate.request import Request
from quantpress_evaluate.suite import ResolvedTask, load_suite

OURS = sorted(str(path) for path in shipped.folder("tasks").glob("*.yaml"))[0]


@pytest.fixture
def asked() -> Request:
    loaded, path = load_suite("smoke")
    return Request(loaded, suite.resolve_tasks(loaded, path, None))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QUANTPRESS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_kept_task_that_would_run_code_is_asked_for_again(
    asked: Request, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As somebody's repository may bring it along in the folder that is taken for the cache."""
    monkeypatch.setattr(workers, "TASKS", replace(workers.TASKS, module="nobody"))
    answers: list[list[ResolvedTask]] = [asked.tasks, asked.tasks]

    def run(*_: Any) -> workers.CheckedTasks:
        return workers.CheckedTasks(tasks=answers.pop())

    monkeypatch.setattr(workers.Worker, "run", run)
    assert request.checked(asked).tasks == asked.tasks
    assert request.checked(asked).tasks == asked.tasks  # it was kept
    assert len(answers) == 1
    (kept,) = (cache / "tasks").glob("*.json")
    (tmp_path / "evil.yaml").write_text("task: t\nprocess_docs: !function evil.no\n")
    known = atomic.read_kept(kept)
    known["tasks"][0]["definition"] = {"include": str(tmp_path / "evil.yaml"), "task": "t"}
    atomic.write_kept(kept, known)  # the digest in the file keeps no one out who knows how it is made
    assert kept_tasks(kept) is None
    assert request.checked(asked).tasks == asked.tasks
    assert answers == []


def test_a_definition_of_ours_is_known(asked: Request, cache: Path) -> None:
    """As tasks_worker makes them: an installed task, on its own documents or on those of a file."""
    lm_eval = importlib.util.find_spec("lm_eval")
    assert lm_eval and lm_eval.submodule_search_locations
    installed = Path(lm_eval.submodule_search_locations[0]) / "tasks" / "piqa" / "piqa.yaml"
    assert installed.is_file()
    folder = (cache_folder() / "datasets").resolve()
    for config in ({}, {"test_split": "test"}, {"validation_split": "validation"}):
        made = tasks_worker._local_definition(asked.tasks[0], config, installed, folder)
        assert is_ours(made)
        for change in (
            {"include": "/elsewhere/piqa.yaml"},
            {"dataset_path": "/elsewhere/script.py"},
            {"process_docs": "!function evil.no"},
            {"test_split": "!function evil.no"},
            {"dataset_kwargs": {"data_files": {"test": "/etc/passwd"}, "cache_dir": str(folder)}},
            {"dataset_kwargs": {**made["dataset_kwargs"], "trust_remote_code": True}},
        ):
            assert not is_ours({**made, **change}), change
    assert is_ours(None)
    assert is_ours({"include": OURS, "task": "t"})
    assert not is_ours({"include": f"{OURS}/../../../../evil.yaml", "task": "t"})
    assert not is_ours({"include": "evil.yaml", "task": "t"})
    assert not is_ours({"task": "t"})


def test_nothing_is_believed_that_lies_in_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QUANTPRESS_CACHE", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".cache" / "quantpress" / "tasks").mkdir(parents=True)
    for home in (tmp_path / "home", tmp_path / "xdg"):
        home.mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder() == tmp_path / "home" / ".cache" / "quantpress"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "quantpress"
    assert stat.S_IMODE(cache_folder().stat().st_mode) == 0o700
    cache_folder().chmod(0o755)
    assert stat.S_IMODE(cache_folder().stat().st_mode) == 0o700


@pytest.mark.parametrize("chosen", [True, False])
def test_a_cache_into_which_everybody_may_write_is_not_used(
    chosen: bool, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not chosen:
        monkeypatch.delenv("QUANTPRESS_CACHE")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache_folder().chmod(0o777)
    with pytest.raises(CapabilityError, match="everybody may write"):
        cache_folder()
