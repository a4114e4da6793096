"""Writes the documents of lm-eval tasks into local files, in the hub's schema, for a bundle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from quantpress.runtime.worker import worker_main
from quantpress_evaluate import tasks_worker


def fetch(job: dict[str, Any]) -> dict[str, Any]:
    """job: tasks (resolved), output, cache (folders). Writes output/<task>.jsonl with the split that is scored."""
    output = Path(job["output"])
    manager = tasks_worker.prepare(job["tasks"], output / "tasks", Path(job["cache"]))
    found = tasks_worker.load(manager, [task["task"] for task in job["tasks"]])
    counts = {}
    for name, task in found.items():
        rows = task.dataset[task.config.test_split or task.config.validation_split]
        with (output / f"{name}.jsonl").open("w", encoding="utf-8") as stream:
            for row in rows:
                stream.write(json.dumps(row, ensure_ascii=False) + "\n")
        counts[name] = len(rows)
    return {"documents": counts, "note": f"{sum(counts.values())} documents"}


if __name__ == "__main__":
    raise SystemExit(worker_main(fetch))
