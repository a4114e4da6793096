"""The evaluate stage's heavy half: lm-eval's own simple_evaluate on one model, task by task."""

from __future__ import annotations

import functools
import gzip
import json
from pathlib import Path
from typing import Any

from quantpress.model.whole_model_worker import placed_model
from quantpress.runtime.worker import report_progress
from quantpress_evaluate import few_shot, sanity, tasks_worker, workers
from quantpress_evaluate.comparison.samples import Samples
from quantpress_evaluate.suite import ResolvedTask
from quantpress_evaluate.workers import ScoreJob, Scores
from quantpress_serve.bench.likelihood_worker import of_model

Results = dict[str, Any]  # lm-eval's own


def load_model(job: ScoreJob) -> Any:
    """lm-eval's model: transformers on the checkpoint's folder, or the client of the job's server."""
    if job.server:
        from quantpress_evaluate.served_model import ServedLM

        return ServedLM(
            url=job.server.url,
            name=job.server.name,
            tokenizer=str(job.model),
            max_length=job.max_length,
            concurrency=job.batch_size,
            trust=job.trust_remote_code,
        )
    from lm_eval.models.huggingface import HFLM

    # lm-eval would load the language model of an image-text model alone, and go on with weights that it does not find.
    dtype = "float32" if job.compute_dtype == "float32" else "auto"
    return HFLM(
        pretrained=placed_model(job.model, job.trust_remote_code, job.device, dtype=dtype),
        tokenizer=str(job.model),
        batch_size=job.batch_size,
        max_length=job.max_length,
        device=job.device,
        trust_remote_code=job.trust_remote_code,
    )


def remember_as_json(path: Path) -> int:
    """Makes lm-eval keep the requests that it has answered as JSON, not as pickle, which runs code from the file.

    Returns how many the file already holds that lm-eval makes of `path`.
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
    """Spares half a second a task: lm-eval describes the machine in the results of every call, and we call it for
    each task."""
    from torch.utils import collect_env

    collect_env.get_pretty_env_info = functools.cache(collect_env.get_pretty_env_info)


def evaluate(job: ScoreJob) -> Scores:
    """The scores of one model; its samples and lm-eval's results lie in the job's `output`.

    Raises StageError for a model that is broken.
    """
    manager = tasks_worker.task_manager(job.tasks, job.output / "tasks")
    lm = load_model(job)
    require_sane = sanity.require_sane_server if job.server else sanity.require_sane
    require_sane(lm, job.output, job.reference)
    before = remember_as_json(job.requests)
    describe_the_machine_once()
    merged: Results = {}
    for number, task in enumerate(job.tasks, start=1):
        report_progress(f"{task.task} ({number} of {len(job.tasks)})")
        results = _task_results(lm, task, manager, job)
        _write_samples(job.output, results.pop("samples"))
        _merge(merged, results)
    _write_results(merged, job, lm.chat_template(True) if job.chat_template else None)
    report_progress("likelihoods of the fixed text that servers are compared by")
    counts = {task.task: merged["n-samples"][task.task]["effective"] for task in job.tasks}
    return Scores(
        scores=merged["results"],
        documents=counts,
        task_versions=merged["versions"],
        answered_before=before,
        likelihoods=of_model(lm.model, lm.tokenizer, job.window) if job.window else None,
        note=f"{sum(counts.values())} documents" + (f", {before} requests answered before" if before else ""),
    )


def _task_results(lm: Any, task: ResolvedTask, manager: Any, job: ScoreJob) -> Results:
    """One task alone, so that people see how far the scoring is, and what is answered is kept if a later task fails."""
    from lm_eval import simple_evaluate

    chosen = task.scored_documents()
    loaded = tasks_worker.load_tasks(manager, [task])[task.task]
    if chosen:
        few_shot.keep_examples(loaded, chosen)
    return dict(
        simple_evaluate(
            model=lm,
            tasks=[loaded],
            num_fewshot=task.num_fewshot,
            samples={task.task: chosen} if chosen else None,
            apply_chat_template=job.chat_template,
            use_cache=str(job.requests),
            log_samples=True,
            task_manager=manager,
        )
    )


def _merge(merged: Results, results: Results) -> None:
    """Adds a task's results: tables with a row a task are joined; what describes the run is kept from the first."""
    for name, value in results.items():
        if isinstance(value, dict) and name != "config":
            merged.setdefault(name, {}).update(value)
        else:
            merged.setdefault(name, value)


def _write_samples(output: Path, samples: dict[str, Samples]) -> None:
    from lm_eval.utils import handle_non_serializable

    for name, items in samples.items():
        with gzip.open(output / f"samples_{name}.jsonl.gz", "wt", encoding="utf-8") as stream:
            for item in sorted(items, key=lambda item: item["doc_id"]):
                stream.write(json.dumps(item, default=handle_non_serializable, ensure_ascii=False) + "\n")


def _write_results(results: Results, job: ScoreJob, template: str | None) -> None:
    """lm-eval writes its results_<time>.json itself, below a folder with the model's name."""
    from lm_eval.loggers import EvaluationTracker

    tracker = EvaluationTracker(output_path=str(job.output / "lm_eval"))
    tracker.general_config_tracker.log_experiment_args(
        model_source="local-completions" if job.server else "hf",
        model_args=f"pretrained={job.model}",
        system_instruction="",
        chat_template=template,
        fewshot_as_multiturn=job.chat_template,
    )
    tracker.save_results_aggregated(results=results)


if __name__ == "__main__":
    raise SystemExit(workers.SCORE.main(evaluate))
