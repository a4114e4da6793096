"""Suites and workloads are data: every shipped one is valid, and what is wrong is found before anything is loaded."""

import json
from collections import Counter
from pathlib import Path

import pytest

from quantpress.errors import InputError
from quantpress_evaluate import suite
from quantpress_serve import workload

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("path", sorted((ROOT / "evaluate" / "suites").rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_suite_in_the_tree_is_valid(path: Path) -> None:
    loaded, _ = suite.load(str(path))
    assert loaded.name == path.stem


@pytest.mark.parametrize("path", sorted((ROOT / "serve" / "workloads").rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_workload_in_the_tree_is_valid(path: Path) -> None:
    assert workload.load(str(path)).name == path.stem


def test_the_smoke_suite_ships_its_documents_under_names_of_its_own() -> None:
    loaded, path = suite.load("smoke")
    tasks = suite.resolve_tasks(loaded, path, None)
    assert len(tasks) == 4
    for task in tasks:
        assert task["task"].startswith("quantpress_smoke_")
        documents = [json.loads(line) for line in Path(task["data"]).read_text().splitlines()]
        assert len(documents) >= 40
        labels = Counter(str(document.get("label", document.get("answerKey"))) for document in documents)
        assert max(labels.values()) <= 1.2 * min(labels.values())


def test_the_data_folder_must_hold_every_task(tmp_path: Path) -> None:
    loaded, path = suite.load("commonsense")
    (tmp_path / "boolq.jsonl").write_text("{}\n")
    with pytest.raises(InputError, match=r"holds no piqa\.jsonl"):
        suite.resolve_tasks(loaded, path, tmp_path)
    with pytest.raises(InputError, match="is not a folder"):
        suite.resolve_tasks(loaded, path, tmp_path / "nowhere")


def test_a_suite_with_a_missing_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\ndescription: d\ntasks: [{task: t, like: boolq, data: gone.jsonl}]\n")
    loaded, source = suite.load(str(path))
    with pytest.raises(InputError, match=r"gone\.jsonl: no such file"):
        suite.resolve_tasks(loaded, source, None)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("tasks: []", "at least 1 item"),
        ("tasks: [{task: boolq, metric: accuracy}]", "'acc'"),
        ("tasks: [{task: boolq}]\nlimt: 3", "did you mean 'limit'"),
    ],
)
def test_a_bad_suite_is_told_why(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(f"name: s\ndescription: d\n{text}\n")
    with pytest.raises(InputError, match=words):
        suite.load(str(path))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("concurrency: []", "at least 1 item"),
        ("concurrency: [0]", "greater than or equal to 1"),
        ("concurrency: [1]\nengine: {tensor_paralel_size: 2}", "did you mean 'tensor_parallel_size'"),
    ],
)
def test_a_bad_workload_is_told_why(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "w.yaml"
    path.write_text(f"name: w\ndescription: d\ninput_len: 8\noutput_len: 8\nrequests_per_stream: 1\n{text}\n")
    with pytest.raises(InputError, match=words):
        workload.load(str(path))
