"""Writes the documents of lm-eval tasks into local files, in the hub's schema, for a bundle."""

from __future__ import annotations

import json

from quantpress.errors import InputError
from quantpress_evaluate import tasks_worker, workers
from quantpress_evaluate.workers import Documents, TasksJob


def write_documents(job: TasksJob) -> Documents:
    """Writes <task>.jsonl with the split that is scored into the folder `output`.

    Raises InputError for a task that lm-eval does not have, and for a group, which a file of documents cannot be of;
    CapabilityError for documents that cannot be had.
    """
    manager = tasks_worker.task_manager(tasks_worker.defined(job.tasks, job.cache), job.output / "tasks")
    loaded = tasks_worker.load_tasks(manager, job.tasks)
    if groups := [task.task for task in job.tasks if task.task not in loaded]:
        raise InputError(
            f"task {groups[0]} is a group of tasks, and a bundle carries documents task by task",
            hint="name its tasks one by one in the suite",
        )
    counts = {}
    for name, task in loaded.items():
        rows = task.dataset[task.config.test_split or task.config.validation_split]
        with (job.output / f"{name}.jsonl").open("w", encoding="utf-8") as stream:
            for row in rows:
                stream.write(json.dumps(row, ensure_ascii=False) + "\n")
        counts[name] = len(rows)
    return Documents(documents=counts, note=f"{sum(counts.values())} documents")


if __name__ == "__main__":
    raise SystemExit(workers.DOCUMENTS.main(write_documents))
