"""What is wrong with a suite's tasks is found by lm-eval's own definitions before any model is loaded."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from quantpress.errors import InputError
from quantpress_evaluate import suite, tasks_worker
from quantpress_evaluate.suite import load_suite
from quantpress_evaluate.workers import TasksJob

GOOD = {"question": "do fish swim", "passage": "Fish swim.", "idx": 0, "label": 1}


def job(tmp_path: Path, rows: list[dict[str, Any]] | None = None, **fields: Any) -> TasksJob:
    """A suite of one task, with documents of its own where rows are given."""
    task: dict[str, Any] = {"task": "mine", "like": "boolq", **fields}
    if rows is not None:
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        task["data"] = "rows.jsonl"
    file = tmp_path / "s.yaml"
    file.write_text(json.dumps({"name": "s", "description": "d", "tasks": [task]}))
    loaded, source = load_suite(str(file))
    resolved = suite.resolve_tasks(loaded, source, None)
    return TasksJob(tasks=resolved, output=tmp_path, cache=tmp_path / "cache")


def test_documents_are_counted(tmp_path: Path) -> None:
    (task,) = tasks_worker.checked_tasks(job(tmp_path, [GOOD] * 5, documents=[4, 0])).tasks
    assert (task.available, task.documents) == (5, [0, 4])


@pytest.mark.parametrize(
    ("rows", "fields", "words"),
    [
        (None, {"like": "bolq"}, "'bolq' is not an lm-eval task.*boolq"),
        ([GOOD], {"metric": "exact_match"}, "is not scored by exact_match; it has acc"),
        ([GOOD], {"filter": "strict"}, "filter 'strict' is not one of"),
        (
            [GOOD, {**GOOD, "passage": None, "question": 3, "label": 5}],
            {},
            "rows.jsonl:2: document 1 is not one of boolq",
        ),
        ([GOOD, {"text": "a"}], {}, r"rows\.jsonl:2: document 1 is not one of boolq"),
        ([GOOD, {**GOOD, "label": "1"}], {}, r"rows\.jsonl:2: document 1 is not one of boolq"),
        (
            [{"question": "2 + 2?", "answer": 4}],
            {"like": "gsm8k_cot", "metric": "exact_match", "filter": "strict-match"},
            r"rows\.jsonl:1: .*'int object' has no attribute 'split'",
        ),
        (
            [
                {"ind": 0, "activity_label": "a", "ctx_a": "b", "ctx_b": "c", "endings": ["d", "e"], "label": "0"},
                {"ind": 1},
            ],
            {"like": "hellaswag", "metric": "acc"},
            r"rows\.jsonl:2 \(beside line 1 it lacks .*ctx_a",
        ),
        ([GOOD], {"documents": [1]}, "document 1 was asked for, the last one is 0"),
        (None, {"like": "plain_text", "metric": "word_perplexity"}, "plain_text has no documents of its own"),
        ([{"text": " "}], {"like": "plain_text", "metric": "word_perplexity"}, "the text is empty"),
        ([GOOD], {"like": "mmlu"}, "'mmlu' is a group of tasks"),
        ([GOOD], {"cluster": "story"}, "its documents have no field 'story'"),
        ([GOOD], {"like": "fda", "metric": "exact_match"}, "'fda' is a task that is a Python class"),
        (
            [{"question": "2 + 2?", "answer": "#### 4"}],
            {"like": "gsm8k", "metric": "exact_match"},
            "'gsm8k' has several filters, and none is named: strict-match, flexible-extract",
        ),
        (
            [{"question": "q", "mc1_targets": {"choices": ["a", "b"], "labels": [1, 0]}}],
            {"like": "truthfulqa_mc1", "num_fewshot": 5},
            "task mine: 5 examples are asked for each question, and lm-eval gives none",
        ),
        ([{"context": "c"}], {"like": "fld_default"}, "generate_until. is not scored by acc; it has exact_match"),
    ],
    ids=[
        "name",
        "metric",
        "filter",
        "label",
        "fields",
        "label as text",
        "answer as number",
        "no fields",
        "document id",
        "no data",
        "no text",
        "group with data",
        "cluster",
        "class with data",
        "no filter of several",
        "examples of a task that takes none",
        "metric of a task without output_type",
    ],
)
def test_what_is_wrong_is_said(rows: Any, fields: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words):
        tasks_worker.checked_tasks(job(tmp_path, rows, **fields))


def test_the_metric_of_a_python_class_is_checked_once_it_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As lm-eval 0.4.13 has FDA: a class whose only metric is its own, and whose output type is a default."""
    config = SimpleNamespace(filter_list=None, num_fewshot=None)
    loaded = SimpleNamespace(
        config=config, OUTPUT_TYPE="generate_until", eval_docs=[], aggregation=lambda: {"contains": 0}
    )
    monkeypatch.setattr(tasks_worker, "_loaded", lambda *_: {"tasks": {"fda": loaded}, "groups": {}})
    monkeypatch.setattr(tasks_worker, "task_manager", lambda *_: None)  # which reads its index of all tasks
    with pytest.raises(InputError, match=r"'fda' \(a Python class\) is not scored by acc; it has contains"):
        tasks_worker.checked_tasks(job(tmp_path, task="fda", like="fda"))
    loaded.aggregation = lambda: {"acc": 0}
    (tmp_path / "again").mkdir()
    assert tasks_worker.checked_tasks(job(tmp_path / "again", task="fda", like="fda")).tasks


@pytest.mark.parametrize(("by_size", "mean"), [([True], True), ([False], False), ([], False)])
def test_a_group_is_a_mean_over_documents_if_lm_eval_has_it_so(by_size: list[bool], mean: bool) -> None:
    from lm_eval.api.group import Group
    from lm_eval.config.group import AggMetricConfig

    group = Group("mmlu", aggregate_metric_list=[AggMetricConfig("acc", weight_by_size=value) for value in by_size])
    assert tasks_worker._is_mean_over_documents(group, "acc") is mean
    assert not tasks_worker._is_mean_over_documents(group, "acc_norm")


def test_the_texts_of_ones_own_are_read_as_they_are(tmp_path: Path) -> None:
    texts = [{"text": "One two."}, {"text": "Three."}]
    (task,) = tasks_worker.checked_tasks(job(tmp_path, texts, like="plain_text", metric="byte_perplexity")).tasks
    assert task.available == 2


def test_values_keep_the_types_that_they_have_in_the_file(tmp_path: Path) -> None:
    """The datasets library's reading of JSON lines makes dates of texts, and refuses columns of several types."""
    rows = [
        {**GOOD, "question": "2020-01-01", "passage": "007", "note": 1, "size": 1},
        {**GOOD, "question": "2021-01-01", "passage": "8", "note": "1", "size": 2.5, "more": {"a": [1, "b"]}},
    ]
    (task,) = tasks_worker.checked_tasks(job(tmp_path, rows)).tasks
    manager = tasks_worker.task_manager([task], tmp_path / "again")
    documents = list(tasks_worker.load_tasks(manager, [task])["mine"].eval_docs)
    assert json.dumps(documents) == json.dumps([{**rows[0], "more": None}, rows[1]])


def test_texts_that_look_like_python_stay_texts(tmp_path: Path) -> None:
    texts = [{"text": "[1, 2]"}, {"text": "2020-01-01"}, {"text": "7"}, {"text": "one\u2028two"}]
    (task,) = tasks_worker.checked_tasks(job(tmp_path, texts, like="plain_text", metric="word_perplexity")).tasks
    manager = tasks_worker.task_manager([task], tmp_path / "again")
    loaded = tasks_worker.load_tasks(manager, [task])["mine"]
    assert [loaded.doc_to_target(document) for document in loaded.eval_docs] == [row["text"] for row in texts]


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "rows.jsonl holds no document"),
        (b"\n \n", "rows.jsonl holds no document"),
        (b'{"a": 1}\n{"b": ', "rows.jsonl:2: not JSON"),
        (b'{"a": 1}\n"text"\n', "rows.jsonl:2: is str, not an object"),
        (b'{"a": 1}\n{}\n', "rows.jsonl:2: is an empty object"),
        (b'{"a": "\xe9"}\n', "rows.jsonl:1: not UTF-8"),
    ],
    ids=["empty", "blank", "broken", "text", "no fields", "latin-1"],
)
def test_files_are_read_before_lm_eval_is_asked(raw: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(raw)
    with pytest.raises(InputError, match=words) as caught:
        job(tmp_path, None, data="rows.jsonl")
    assert "hub to" not in str(caught.value.hint)
    assert "connect" not in str(caught.value.hint)


def test_a_task_that_was_checked_is_found_without_lm_evals_index(tmp_path: Path) -> None:
    (task,) = tasks_worker.checked_tasks(job(tmp_path, [GOOD] * 3)).tasks
    of_the_hub = task.model_copy(update={"task": "boolq", "data": None, "filter": "none"})
    manager = tasks_worker.task_manager([task, *tasks_worker.defined([of_the_hub], tmp_path)], tmp_path / "again")
    assert manager.all_tasks == sorted({"mine", "boolq", *manager.all_tags})
    assert len(tasks_worker.load_tasks(manager, [task])["mine"].eval_docs) == 3
    assert manager.task_index["boolq"].cfg["dataset_path"].endswith("super_glue")
