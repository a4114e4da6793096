"""What a bundle carries of a suite's documents."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from quantpress.errors import InputError
from quantpress_evaluate import documents_worker, tasks_worker
from quantpress_evaluate.suite import load_suite, resolve_tasks
from quantpress_evaluate.workers import TasksJob


def test_a_group_is_refused_where_its_documents_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """lm-eval loads the tasks of a group under their own names; a suite would look for the group's."""
    suite, path = load_suite("smoke")
    task = resolve_tasks(suite, path, None)[0].model_copy(update={"task": "mmlu", "like": "mmlu"})
    monkeypatch.setattr(tasks_worker, "task_manager", lambda *_: None)
    monkeypatch.setattr(tasks_worker, "defined", lambda tasks, _: tasks)
    monkeypatch.setattr(tasks_worker, "load_tasks", lambda *_: {"mmlu_anatomy": SimpleNamespace()})
    with pytest.raises(InputError, match="task mmlu is a group of tasks, and a bundle carries documents task by task"):
        documents_worker.write_documents(TasksJob(tasks=[task], cache=tmp_path, output=tmp_path))
