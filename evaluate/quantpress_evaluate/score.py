"""The evaluate stage's heavy half: lm-eval's own simple_evaluate on one model, one suite."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

from quantpress.errors import CapabilityError, InputError, first_line
from quantpress.located_yaml import nearest
from quantpress.process import worker_main
from quantpress_evaluate import sanity


def local_task(task: dict[str, Any], config: dict[str, Any], yaml_path: Path, cache: Path) -> dict[str, Any]:
    """lm-eval task YAML for documents in a local file: the installed task's own definition, only the data replaced."""
    split = config.get("test_split") or config.get("validation_split") or "test"
    splits: dict[str, Any] = {
        name: None for name in ("training_split", "validation_split", "test_split", "fewshot_split")
    }
    splits["test_split" if config.get("test_split") else "validation_split"] = split
    return {
        "include": str(yaml_path),
        "task": task["task"],
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {split: task["data"]}, "cache_dir": str(cache)},
        **splits,
    }


def prepare_tasks(tasks: list[dict[str, Any]], folder: Path, cache: Path) -> Any:
    """Writes YAML for tasks with local data and returns a TaskManager that knows them all.

    Raises InputError for a task that lm-eval does not have.
    """
    import yaml
    from lm_eval.tasks import TaskManager

    folder.mkdir()
    manager = TaskManager()
    for task in tasks:
        entry = manager.task_index.get(task["like"])
        if entry is None or entry.yaml_path is None:
            close = nearest(task["like"], manager.all_subtasks)
            raise InputError(f"{task['like']!r} is not an lm-eval task; {close[:200]}", hint="correct the suite")
        config = dict(entry.cfg or {})
        metrics = [str(item.get("metric")) for item in config.get("metric_list", [])]
        if config.get("output_type") != "multiple_choice" or task["metric"] not in metrics:
            kind = config.get("output_type") or "a group of tasks"
            raise InputError(
                f"task {task['task']}: {task['like']!r} is {kind} with {', '.join(metrics) or 'no metrics'}; "
                f"quantpress compares multiple-choice tasks, here by {task['metric']}",
                hint="name the group's tasks one by one, or another metric",
            )
        if task["data"]:
            config = local_task(task, config, entry.yaml_path, cache)
            (folder / f"{task['task']}.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return TaskManager(include_path=str(folder), include_defaults=not all(task["data"] for task in tasks))


def load_tasks(manager: Any, names: list[str]) -> dict[str, Any]:
    """lm-eval's task objects with their documents. Raises CapabilityError if these cannot be had."""
    try:
        return dict(manager.load(names)["tasks"])
    except Exception as error:  # datasets raises a dozen unrelated classes; all of them mean "no documents"
        raise CapabilityError(
            f"the documents of {', '.join(names)} cannot be loaded: {first_line(error)}",
            hint="connect to the Hugging Face hub, or put <task>.jsonl files in a folder and name it with "
            "QUANTPRESS_DATA=; --suite smoke needs neither",
        ) from error


def evaluate(job: dict[str, Any]) -> dict[str, Any]:
    """job: model, output, cache (folders), tasks, num_fewshot, limit, batch_size, device, trust_remote_code,
    reference (the baseline's scores, or None for the baseline itself). Raises StageError for a model that is broken.
    """
    output, cache = Path(job["output"]), Path(job["cache"])
    names = [task["task"] for task in job["tasks"]]
    manager = prepare_tasks(job["tasks"], output / "tasks", cache)
    load_tasks(manager, names)

    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.utils import handle_non_serializable

    model = HFLM(
        pretrained=job["model"],
        dtype="auto",
        batch_size=job["batch_size"],
        device=job["device"],
        trust_remote_code=job["trust_remote_code"],
    )
    sanity.check(model, output / sanity.FILE, Path(job["reference"]) / sanity.FILE if job["reference"] else None)
    results = simple_evaluate(
        model=model,
        tasks=names,
        num_fewshot=job["num_fewshot"],
        limit=job["limit"],
        log_samples=True,
        task_manager=manager,
    )
    samples = results.pop("samples")
    text = json.dumps(results, indent=2, default=handle_non_serializable, ensure_ascii=False)
    (output / "results.json").write_text(text, encoding="utf-8")
    for name, items in samples.items():
        with gzip.open(output / f"samples_{name}.jsonl.gz", "wt", encoding="utf-8") as stream:
            for item in sorted(items, key=lambda item: item["doc_id"]):
                stream.write(json.dumps(item, default=handle_non_serializable, ensure_ascii=False) + "\n")
    documents = {name: len(items) for name, items in samples.items()}
    versions = {name: results["versions"].get(name) for name in names}
    scores = {name: {**results["results"][name]} for name in names}
    note = f"{sum(documents.values())} documents"
    return {"scores": scores, "documents": documents, "task_versions": versions, "note": note}


if __name__ == "__main__":
    raise SystemExit(worker_main(evaluate))
