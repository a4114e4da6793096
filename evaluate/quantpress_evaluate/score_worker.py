"""The evaluate stage's heavy half: lm-eval's own simple_evaluate on one model, task by task."""

from __future__ import annotations

import functools
import gzip
import json
from pathlib import Path
from typing import Any

from quantpress.runtime.worker import report_progress, worker_main
from quantpress_evaluate import sanity, tasks_worker
from quantpress_serve.bench.likelihood_worker import of_model

Results = dict[str, Any]


def load_model(job: dict[str, Any]) -> Any:
    """lm-eval's model: transformers on the checkpoint's folder, or the client of the server that `server` names."""
    if job["server"]:
        from quantpress_evaluate.served_model import ServedLM

        return ServedLM(
            *(job["server"]["url"], job["server"]["name"], job["model"]),
            *(job["max_length"], job["batch_size"], job["trust_remote_code"]),
        )
    from lm_eval.models.huggingface import HFLM

    return HFLM(
        pretrained=job["model"],
        dtype="float32" if job["compute_dtype"] == "float32" else "auto",
        batch_size=job["batch_size"],
        max_length=job["max_length"],
        device=job["device"],
        trust_remote_code=job["trust_remote_code"],
    )


def remember_as_json(path: str) -> int:
    """Makes lm-eval keep answered requests as JSON: its own way is pickle, which a foreign file could abuse.

    Returns how many are answered already in the file that lm-eval makes of `path`.
    """
    from lm_eval.api import model
    from sqlitedict import SqliteDict

    class JsonCachingLM(model.CachingLM):  # type: ignore[misc]
        def __init__(self, lm: Any, cache_db: str) -> None:
            self.lm, self.cache_db = lm, cache_db
            self.dbdict = SqliteDict(cache_db, autocommit=True, encode=json.dumps, decode=json.loads)
            lm.set_cache_hook(self.get_cache_hook())

    model.CachingLM = JsonCachingLM
    with SqliteDict(f"{path}_rank0.db") as known:
        return len(known)


def describe_the_machine_once() -> None:
    """lm-eval describes the machine in the results of each call, half a second each; we call it by task."""
    from torch.utils import collect_env

    collect_env.get_pretty_env_info = functools.cache(collect_env.get_pretty_env_info)


def evaluate(job: dict[str, Any]) -> dict[str, Any]:
    """job: model, output (folders), tasks (checked), requests (file that keeps answered requests), server (url
    and name, or None for transformers), batch_size, max_length, chat_template, device, compute_dtype, window (tokens,
    or None for a server), trust_remote_code, reference (the baseline's scores, or None for the baseline itself).

    Raises StageError for a model that is broken.
    """
    output = Path(job["output"])
    manager = tasks_worker.again(job["tasks"], output / "tasks")
    lm = load_model(job)
    check = sanity.check_served if job["server"] else sanity.check
    check(lm, output, Path(job["reference"]) if job["reference"] else None)
    before = remember_as_json(job["requests"])
    describe_the_machine_once()
    merged: Results = {}
    for number, task in enumerate(job["tasks"], start=1):
        report_progress(f"{task['task']} ({number} of {len(job['tasks'])})")
        results = _score(lm, task, manager, job)
        _write_samples(output, results.pop("samples"))
        _merge(merged, results)
    _write_results(output, merged, job)
    report_progress("the fixed text that a server is asked for too")
    counts = {task["task"]: merged["n-samples"][task["task"]]["effective"] for task in job["tasks"]}
    return {
        "scores": merged["results"],
        "documents": counts,
        "task_versions": merged["versions"],
        "answered_before": before,
        "likelihoods": of_model(lm.model, lm.tokenizer, job["window"]).dump() if job["window"] else None,
        "note": f"{sum(counts.values())} documents" + (f", {before} requests answered before" if before else ""),
    }


def _score(lm: Any, task: tasks_worker.Resolved, manager: Any, job: dict[str, Any]) -> Results:
    """One task, so that its progress and time left are seen and what is answered is kept if a later one fails."""
    from lm_eval import simple_evaluate

    return dict(
        simple_evaluate(
            model=lm,
            tasks=[task["task"]],
            num_fewshot=task["num_fewshot"],
            limit=task["limit"],
            samples={task["task"]: task["documents"]} if task["documents"] else None,
            apply_chat_template=job["chat_template"],
            use_cache=job["requests"],
            log_samples=True,
            task_manager=manager,
        )
    )


def _merge(merged: Results, results: Results) -> None:
    """Tables by task are joined; of what describes the run the first stays."""
    for name, value in results.items():
        if isinstance(value, dict) and name != "config":
            merged.setdefault(name, {}).update(value)
        else:
            merged.setdefault(name, value)


def _write_samples(output: Path, samples: dict[str, list[dict[str, Any]]]) -> None:
    from lm_eval.utils import handle_non_serializable

    for name, items in samples.items():
        with gzip.open(output / f"samples_{name}.jsonl.gz", "wt", encoding="utf-8") as stream:
            for item in sorted(items, key=lambda item: item["doc_id"]):
                stream.write(json.dumps(item, default=handle_non_serializable, ensure_ascii=False) + "\n")


def _write_results(output: Path, results: Results, job: dict[str, Any]) -> None:
    """results_<time>.json below a folder with the model's name, by lm-eval's own hand."""
    from lm_eval.loggers import EvaluationTracker

    tracker = EvaluationTracker(output_path=str(output / "lm_eval"))
    tracker.general_config_tracker.log_experiment_args(
        model_source="local-completions" if job["server"] else "hf",
        model_args=f"pretrained={job['model']}",
        system_instruction="",
        chat_template="",
        fewshot_as_multiturn=job["chat_template"],
    )
    tracker.save_results_aggregated(results=results)


if __name__ == "__main__":
    raise SystemExit(worker_main(evaluate))
