"""lm-eval's tasks: found, their documents loaded, and everything about them checked before a model is."""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

from quantpress.errors import CapabilityError, InputError, first_line, listed, nearest
from quantpress.language import shipped
from quantpress_evaluate import suite, table, workers
from quantpress_evaluate.suite import ResolvedTask
from quantpress_evaluate.workers import CheckedTasks, TasksJob

_FIELDS = "documents need the fields of the hub's data set, from a split that has answers"
# An answer of the form that lm-eval gives each kind of request.
_ANSWERS: dict[str, Any] = {
    "multiple_choice": (-1.0, False),
    "loglikelihood": (-1.0, False),
    "loglikelihood_rolling": -1.0,
    "generate_until": "quantpress",
}
_OWN = str(shipped.folder("tasks"))
# What quantpress compares document by document, by lm-eval's output types.
_METRICS = {
    "multiple_choice": ("acc", "acc_norm", "exact_match"),
    "loglikelihood": ("acc",),
    "loglikelihood_rolling": ("word_perplexity", "byte_perplexity"),
    "generate_until": ("exact_match", "acc"),
}
# What lm-eval's index has beside tasks that YAML alone defines.
_KINDS = {"GROUP": "a group of tasks", "TAG": "a group of tasks", "PY_TASK": "a task that is a Python class"}


def _local_definition(task: ResolvedTask, config: dict[str, Any], yaml_path: Path, cache: Path) -> dict[str, Any]:
    """lm-eval task YAML for documents in a local file: the installed task's own definition, only the data replaced."""
    split = config.get("test_split") or config.get("validation_split") or "test"
    splits: dict[str, Any] = {
        name: None for name in ("training_split", "validation_split", "test_split", "fewshot_split")
    }
    splits["test_split" if config.get("test_split") else "validation_split"] = split
    if splits["test_split"]:
        # lm-eval keeps a question out of its own examples only where it sees that both are of one split.
        splits["fewshot_split"] = split
    return {
        "include": str(yaml_path),
        "task": task.task,
        "dataset_path": "parquet",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {split: str(_table_of(task, cache))}, "cache_dir": str(cache)},
        **splits,
    }


def _table_of(task: ResolvedTask, cache: Path) -> Path:
    return cache / f"{task.sha256}.parquet"


def defined(tasks: list[ResolvedTask], cache: Path) -> list[ResolvedTask]:
    """The tasks with their definitions. `cache` is the folder in which lm-eval keeps what it reads from local files.

    Raises InputError for a task that lm-eval does not have, or a metric that the task does not have.
    """
    return [task.model_copy(update={"definition": _definition(task, cache)}) for task in tasks]


def task_manager(tasks: list[ResolvedTask], folder: Path) -> Any:
    """lm-eval's TaskManager of tasks from their definitions, which are written into the new `folder`: finding them
    among all that lm-eval has takes seconds, and only groups, which have no definition, need it. The tables of
    documents of one's own are written where they are missing or cut short."""
    import yaml
    from lm_eval.tasks import TaskManager

    folder.mkdir()
    for task in tasks:
        if task.definition and task.data:
            documents = _table_of(task, Path(task.definition["dataset_kwargs"]["cache_dir"]))
            if not table.is_whole(documents):
                table.write(Path(task.data), documents)
        if task.definition:
            path = folder / f"{task.definition['task']}.yaml"
            path.write_text(yaml.safe_dump(task.definition, sort_keys=False), encoding="utf-8")
    return TaskManager(include_path=str(folder), include_defaults=not all(task.definition for task in tasks))


def _definition(task: ResolvedTask, cache: Path) -> dict[str, Any] | None:
    """YAML that is the task without lm-eval's index of all tasks; None for a group, which has none of its own, and for
    a task that is a Python class, whose metrics are known once it is loaded."""
    from lm_eval.config.task import TaskConfig

    entry = _index().task_index.get(task.like)
    if entry is None:
        close = nearest(task.like, [*_index().all_subtasks, *_index().all_groups])
        raise InputError(f"{task.like!r} is not an lm-eval task; {close[:200]}", hint="correct the suite")
    if entry.yaml_path is None or entry.kind.name != "TASK":
        if task.data:
            raise InputError(
                f"task {task.task}: {task.like!r} is {_KINDS[entry.kind.name]}, so documents cannot be given for it",
                hint="name a task that lm-eval defines in YAML alone, one for each file of documents",
            )
        return None
    config = {"output_type": TaskConfig.output_type, **(entry.cfg or {})}
    kind = config["output_type"]
    metrics = [str(item.get("metric")) for item in config.get("metric_list") or []]
    _require_metric(task, kind, metrics or list(_METRICS.get(kind, ())))
    _require_filter(task, config.get("filter_list"))
    if task.data:
        return _local_definition(task, config, entry.yaml_path, cache)
    if task.like == "plain_text":
        raise InputError(f"task {task.task}: plain_text has no documents of its own", hint="name a .jsonl with `data`")
    return {"include": str(entry.yaml_path), "task": task.task}


@cache
def _index() -> Any:
    """Every task of lm-eval's and of ours; finding them takes seconds."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=_OWN)


def _require_metric(task: ResolvedTask, kind: str | None, named: list[str]) -> None:
    """Raises InputError for a metric that is none of those `named` by a task of this kind, or that quantpress cannot
    compare. A Python class without a kind may make any of them."""
    comparable = _METRICS.get(kind, ()) if kind else dict.fromkeys(name for of in _METRICS.values() for name in of)
    able = [metric for metric in comparable if metric in named]
    if task.metric not in able:
        raise InputError(
            f"task {task.task}: {task.like!r} ({kind or 'a Python class'}) is not scored by {task.metric}; "
            f"it has {', '.join(named) or 'no metrics'}",
            hint=f"name {' or '.join(able)}" if able else "quantpress cannot compare this task document by document",
        )


def _require_filter(task: ResolvedTask, listed_filters: list[dict[str, Any]] | None) -> None:
    """Raises InputError for a filter that the task's definition does not have, or for none where it has several."""
    filters = [str(item.get("name")) for item in listed_filters or []]
    if task.filter in (filters if len(filters) > 1 else [*filters, "none", None]):
        return
    several = f"{task.like!r} has several filters, and none is named: {', '.join(filters)}"
    wrong = f"filter {task.filter!r} is not one of {', '.join(filters) or 'none'}"
    raise InputError(
        f"task {task.task}: {several if task.filter is None else wrong}",
        hint="name the filter whose answers are to be compared" + (f", as filter: {filters[0]}" if filters else ""),
    )


def load_tasks(manager: Any, tasks: list[ResolvedTask]) -> dict[str, Any]:
    """lm-eval's task objects with their documents, groups resolved.

    Raises CapabilityError if the documents cannot be had from the hub, InputError if those of a file cannot be used.
    """
    return dict(_loaded(manager, tasks)["tasks"])


def _loaded(manager: Any, tasks: list[ResolvedTask]) -> dict[str, Any]:
    """What lm-eval loads: `tasks` and the `groups` that they are in, by name. Raises as `load_tasks` does."""
    names = [task.task for task in tasks]
    try:
        return dict(manager.load(names))
    except Exception as error:  # datasets raises a dozen unrelated classes; all of them mean "no documents"
        message = f"the documents of {', '.join(names)} cannot be loaded: {first_line(error)}"
        if all(task.data for task in tasks):
            place = ", ".join(_odd_one(Path(str(task.data))) for task in tasks)
            raise InputError(f"{place}: {message}", hint=_FIELDS) from error
        raise CapabilityError(
            message,
            hint="connect to the Hugging Face hub, or put <task>.jsonl files in a folder and name it with "
            "QUANTPRESS_DATA=; --suite smoke needs neither",
        ) from error


def checked_tasks(job: TasksJob) -> CheckedTasks:
    """The tasks with groups resolved into theirs, the documents that each has counted and tried.

    Raises InputError for a task that does not exist, a metric or a filter that it does not have, documents that do not
    have its fields or answers, document ids beyond the last, examples that lm-eval would not give or there are not;
    CapabilityError for documents that cannot be had.
    """
    manager = task_manager(defined(job.tasks, job.cache), job.output / "tasks")
    checked = []
    for task in job.tasks:
        found = _loaded(manager, [task])
        loaded, group = found["tasks"], found["groups"].get(task.task)
        for name, of_lm_eval in loaded.items():
            leaf = {"task": name, "like": task.like if task.data else name, "weight": task.weight / len(loaded)}
            leaf |= {"group": task.task} if group and _is_mean_over_documents(group, task.metric) else {}
            _require_cluster(task, of_lm_eval)
            (single,) = defined([task.model_copy(update=leaf)], job.cache)
            _require_as_loaded(single, of_lm_eval, task.task)
            counted = single.model_copy(update={"available": len(of_lm_eval.eval_docs)})
            _require_documents(counted, of_lm_eval)
            _require_examples(counted, of_lm_eval)
            checked.append(counted)
    _require_once(job.tasks, checked)
    return CheckedTasks(tasks=checked, note=f"{sum(task.available or 0 for task in checked)} documents")


def _require_once(asked: list[ResolvedTask], checked: list[ResolvedTask]) -> None:
    """Raises InputError for a task that two entries bring: the scores of one would be taken for the other's."""
    counts = Counter(task.task for task in checked)
    if double := next((name for name, count in counts.items() if count > 1), None):
        named = listed([task.task for task in asked])
        raise InputError(
            f"the suite asks {double} twice: it is a task of several of its entries ({named})",
            hint="leave one of them out",
        )


def _require_as_loaded(task: ResolvedTask, loaded: Any, entry: str) -> None:
    """What only the loaded task knows. Raises InputError for a metric or a filter that it does not have, and for
    examples that lm-eval would not give: it keeps to a definition that says 0 (lm_eval/evaluator.py); `entry` is the
    suite's."""
    of_class = loaded.OUTPUT_TYPE if task.definition else None
    _require_metric(task, of_class, list(loaded.aggregation()))
    _require_filter(task, loaded.config.filter_list)
    if task.num_fewshot and loaded.config.num_fewshot == 0:
        raise InputError(
            f"task {task.task}: {task.num_fewshot} examples are asked for each question, and lm-eval gives none, "
            "because the task's own definition says 0",
            hint=f"num_fewshot: 0 for {entry}",
        )


def _require_examples(task: ResolvedTask, loaded: Any) -> None:
    """Raises InputError where there are fewer documents than a question needs examples, or where the examples of one's
    own documents would be the questions themselves."""
    shots = loaded.config.num_fewshot if task.num_fewshot is None else task.num_fewshot
    examples = getattr(loaded, "fewshot_cfg", None)
    if not shots or examples is None:
        return
    if task.data and type(loaded.sampler).__name__ == "FirstNSampler":
        raise InputError(
            f"task {task.task}: {task.like} takes the first documents as examples for all, and of {task.data} these "
            "are asked themselves: they would see their own answers",
            hint=f"num_fewshot: 0 for {task.task}",
        )
    own = examples.split == loaded.config.test_split  # lm-eval then draws one more, to leave itself out
    there, needed = len(list(loaded.fewshot_docs() or [])), shots + own
    if there < needed:
        raise InputError(
            f"task {task.task}: {shots} examples are asked for each question, and there are {there} documents to draw "
            f"{needed} from" + (f" ({task.data})" if task.data else ""),
            hint=f"a smaller num_fewshot for {task.task}, or more documents",
        )


def _require_documents(task: ResolvedTask, loaded: Any) -> None:
    """Raises InputError for a document that may be scored and does not yield a question and an answer."""
    documents = loaded.eval_docs
    ids = task.limited(task.limit, task.seed or 0).scored_documents() or range(len(documents))
    if ids and max(ids) >= len(documents):
        raise InputError(
            f"task {task.task}: document {max(ids)} was asked for, the last one is {len(documents) - 1}",
            hint="correct the suite's `documents`; they count from 0",
        )
    for number in ids:
        try:
            _require_document(loaded, documents[number])
            if task.data:
                _require_requests(loaded, documents[number])
        except Exception as error:  # templates and functions of tasks raise anything
            raise InputError(
                f"{_place(task, number, len(documents))}: document {number} is not one of {task.like}: "
                f"{type(error).__name__}: {first_line(error)[:200]}",
                hint=_FIELDS,
            ) from error


def _is_mean_over_documents(group: Any, metric: str) -> bool:
    """Whether lm-eval weighs the group's tasks by their documents, as it does unless the group says otherwise."""
    found = [item for item in group.aggregate_metric_list or [] if item.metric == metric]
    return bool(found) and all(item.weight_by_size for item in found)


def _require_cluster(task: ResolvedTask, loaded: Any) -> None:
    """Raises InputError for a field that the task's documents do not have."""
    if task.cluster is None:
        return
    fields = list(loaded.eval_docs[0])
    if task.cluster not in fields:
        raise InputError(
            f"task {task.task}: its documents have no field {task.cluster!r} to be drawn together by",
            hint=f"they have {', '.join(fields)}",
        )


def _place(task: ResolvedTask, number: int, of: int) -> str:
    """Where document `number` of so many stands: file and line if it is one's own, else the task.

    No line where the task itself leaves documents out.
    """
    if task.data is None:
        return f"task {task.task}"
    numbers = [line for line, _ in suite.documents_of(Path(task.data))]
    return f"task {task.task}: {task.data}" + (f":{numbers[number]}" if len(numbers) == of else "")


def _odd_one(path: Path) -> str:
    """The place of the first document that has other fields than the first, or of the first: where to look."""
    fields: set[str] | None = None
    for line, document in suite.documents_of(path):
        fields = fields or set(document)
        if set(document) != fields:
            missing, more = sorted(fields - set(document)), sorted(set(document) - fields)
            return f"{path}:{line} (beside line 1 it lacks {missing} and has {more})"
    return f"{path}:1"


def _require_document(loaded: Any, document: dict[str, Any]) -> None:
    """Raises whatever the task's templates do for a document that is not one of its own, or ValueError."""
    target = loaded.doc_to_target(document)
    question = loaded.doc_to_text(document)
    if loaded.OUTPUT_TYPE == "loglikelihood_rolling":
        if not str(target).strip():
            raise ValueError("the text is empty")
        return
    if loaded.OUTPUT_TYPE != "multiple_choice" or loaded.multiple_input or loaded.multiple_target:
        return
    choices = loaded.doc_to_choice(document)
    number = target if isinstance(target, int) else choices.index(target)
    if not 0 <= number < len(choices):
        raise ValueError(f"the answer {target!r} is none of its {len(choices)} choices")
    if not isinstance(question, str):
        raise ValueError("the question is not text")


def _require_requests(loaded: Any, document: dict[str, Any]) -> None:
    """Raises whatever lm-eval would after hours: it makes the document's requests, and scores made-up answers."""
    if getattr(loaded, "multiple_input", 0):
        return
    question = loaded.doc_to_text(document)
    made = loaded.construct_requests(document, question, metadata=("", 0, 1))
    requests = made if isinstance(made, list) else [made]
    for request in requests:
        texts = request.args[:1] if loaded.OUTPUT_TYPE == "generate_until" else request.args[:2]
        if wrong := [text for text in texts if not isinstance(text, str)]:
            raise ValueError(f"{wrong[0]!r} is {type(wrong[0]).__name__}, not text")
    loaded.process_results(document, [_ANSWERS[loaded.OUTPUT_TYPE]] * len(requests))


if __name__ == "__main__":
    raise SystemExit(workers.TASKS.main(checked_tasks))
