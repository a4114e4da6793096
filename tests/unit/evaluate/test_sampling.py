"""Which documents a limit takes."""

from __future__ import annotations

import itertools
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from lm_eval.api.samplers import ContextSampler, FirstNSampler
from lm_eval_files import choices

from quantpress.artifact.accuracy import ScoredTask
from quantpress.errors import InputError
from quantpress_evaluate import few_shot, stage, suite, tasks_worker
from quantpress_evaluate.comparison import compare, differences
from quantpress_evaluate.comparison.compare import Scored
from quantpress_evaluate.comparison.differences import Logged
from quantpress_evaluate.request import Request
from quantpress_evaluate.sampling import sample
from quantpress_evaluate.suite import ResolvedTask, Suite
from quantpress_evaluate.workers import TasksJob


def test_a_larger_sample_holds_every_smaller_one() -> None:
    sizes = (1, 7, 50, 200, 1000)
    drawn = [sample("boolq", 0, 1000, size) for size in sizes]
    assert [len(set(numbers)) for numbers in drawn] == list(sizes)
    assert all(set(one) < set(other) for one, other in itertools.pairwise(drawn))
    assert drawn[-1] == list(range(1000))
    assert all(numbers == sorted(numbers) for numbers in drawn)


def test_the_sample_is_this_one_in_every_version() -> None:
    """Another one would be other documents under the same seed."""
    assert sample("boolq", 0, 100, 6) == [4, 21, 42, 46, 49, 95]
    assert sample("boolq", 1, 100, 6) != sample("boolq", 0, 100, 6) != sample("piqa", 0, 100, 6)


def test_every_document_is_drawn_alike_often() -> None:
    from scipy.stats import chisquare

    counts = [0] * 40
    for seed in range(400):
        for number in sample("t", seed, 40, 10):
            counts[number] += 1
    # Without replacement the counts vary less than independent ones: by (1 - 10/40) * 40/39.
    assert chisquare(counts).statistic / (0.75 * 40 / 39) < 72  # 99.9% of a chi-square with 39 degrees of freedom


def test_a_file_damaged_in_its_second_half_is_seen() -> None:
    """1000 documents in the order of their sources; the candidate has lost a fifth of the second source's."""
    base = choices("r" * 1000)
    own = choices("r" * 500 + "rrrrw" * 100)

    def recovery(numbers: list[int]) -> tuple[float, float]:
        both = [[side[number] for number in numbers] for side in (base, own)]
        found = compare.compare_suite({"sorted": Scored("acc", *both)}, count_no_signal=True).overall
        assert found
        assert found.recovery_interval
        return found.recovery_interval

    first = recovery(list(range(200)))
    assert first[1] >= 1, "the first documents know nothing of the damage"
    low, high = recovery(sample("sorted", 0, 1000, 200))
    assert low < 0.9 < high < 0.97


def tasks(tmp_path: Path, size: int, **fields: Any) -> tuple[Suite, Path]:
    rows = [{"question": f"is it {n}", "passage": f"It is {n}.", "idx": n, "label": n % 2} for n in range(size)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": f"Text {n}."}) + "\n" for n in range(size)))
    of_both = [
        {"task": "mine", "like": "boolq", "data": "rows.jsonl", **fields},
        {"task": "texts", "like": "plain_text", "data": "texts.jsonl", "metric": "word_perplexity", **fields},
    ]
    file = tmp_path / "s.yaml"
    file.write_text(json.dumps({"name": "s", "description": "d", "seed": 3, "tasks": of_both}))
    return suite.load_suite(str(file))


def test_ones_own_documents_and_texts_are_drawn_too(tmp_path: Path) -> None:
    loaded, file = tasks(tmp_path, 30, limit=4)
    job = TasksJob(tasks=suite.resolve_tasks(loaded, file, None), output=tmp_path, cache=tmp_path / "cache")
    for task in tasks_worker.checked_tasks(job).tasks:
        assert (task.limit, task.seed, task.available) == (4, 3, 30)
        assert task.scored_documents() == sample(task.task, 3, 30, 4)


def own_task(tmp_path: Path, like: str, rows: list[dict[str, Any]], **fields: Any) -> TasksJob:
    folder = Path(tempfile.mkdtemp(dir=tmp_path))
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    one = {"task": "mine", "like": like, "data": "rows.jsonl", **fields}
    (folder / "s.yaml").write_text(json.dumps({"name": "s", "description": "d", "tasks": [one]}))
    loaded, file = suite.load_suite(str(folder / "s.yaml"))
    return TasksJob(tasks=suite.resolve_tasks(loaded, file, None), output=folder, cache=folder / "cache")


def test_no_question_is_among_its_own_examples(tmp_path: Path) -> None:
    rows = [
        {"question": f"How much is {n} and {n}?", "answer": f"{n} + {n} is {2 * n}. #### {2 * n}"} for n in range(7)
    ]
    asked = {"metric": "exact_match", "filter": "flexible-extract"}
    job = own_task(tmp_path, "gsm8k", rows, **asked)
    (checked,) = tasks_worker.checked_tasks(job).tasks
    manager = tasks_worker.task_manager([checked], tmp_path / "tasks")
    (task,) = tasks_worker.load_tasks(manager, [checked]).values()
    for row in task.test_docs():
        assert task.fewshot_context(row, 5).count(row["question"]) == 1
    with pytest.raises(InputError, match="5 examples are asked for each question, and there are 5 documents to draw 6"):
        tasks_worker.checked_tasks(own_task(tmp_path, "gsm8k", rows[:5], **asked))


def test_examples_that_are_the_first_questions_are_refused(tmp_path: Path) -> None:
    rows = [{"question": f"q{n}", "subject": "s", "choices": ["a", "b", "c", "d"], "answer": n % 4} for n in range(9)]
    assert tasks_worker.checked_tasks(own_task(tmp_path, "mmlu_anatomy", rows, num_fewshot=0)).tasks
    with pytest.raises(InputError, match="they would see their own answers"):
        tasks_worker.checked_tasks(own_task(tmp_path, "mmlu_anatomy", rows, num_fewshot=5))


def test_a_task_and_its_group_are_refused(tmp_path: Path) -> None:
    known = ResolvedTask(task="arc_easy", like="arc_easy", metric="acc", filter=None, weight=1.0, data=None)
    with pytest.raises(InputError, match="the suite asks arc_easy twice"):
        tasks_worker._require_once([known], [known, known])


def test_a_document_is_tried_if_it_is_drawn(tmp_path: Path) -> None:
    loaded, file = tasks(tmp_path, 30, limit=4)
    bad = sample("mine", 3, 30, 4)[-1]
    rows = (tmp_path / "rows.jsonl").read_text().splitlines()
    rows[bad] = rows[bad].replace('"label": ', '"label": 5')
    (tmp_path / "rows.jsonl").write_text("\n".join(rows) + "\n")
    job = TasksJob(tasks=suite.resolve_tasks(loaded, file, None), output=tmp_path, cache=tmp_path / "cache")
    with pytest.raises(InputError, match=rf"rows\.jsonl:{bad + 1}: document {bad} is not one of boolq"):
        tasks_worker.checked_tasks(job)


def resolved(**fields: Any) -> ResolvedTask:
    needed = {"task": "t", "like": "t", "metric": "acc", "filter": None, "weight": 1.0, "data": None, "available": 40}
    return ResolvedTask.model_validate(needed | fields)


def test_a_limit_of_all_documents_is_no_limit() -> None:
    assert resolved().limited(40, 0) == resolved().limited(None, 0) == resolved()
    assert resolved().limited(39, 5).seed == 5
    named = resolved(documents=[1, 3])
    assert named.limited(1, 0).scored_documents() == [1, 3]
    assert named.chosen == "documents that the suite names"


def test_the_seed_is_in_the_settings_of_samples_alone() -> None:
    of_suite = Suite.model_validate({"name": "own", "description": "d", "tasks": [{"task": "t"}], "seed": 7})
    whole = Request(of_suite, [resolved()], backend="hf").settings()
    drawn = Request(of_suite, [resolved()], backend="hf").with_limit(9).settings()
    assert "seed" not in whole.decisive()["tasks"][0]  # so that whole tasks keep the scores that they have
    assert drawn.decisive()["tasks"][0]["seed"] == 7
    assert drawn.tasks[0].chosen == "a random sample, seed 7"


def test_results_of_before_are_marked() -> None:
    assert ScoredTask(task="t", like="t", limit=9).chosen == "the first documents, no sample"
    assert ScoredTask(task="t", like="t").chosen is None


def test_named_documents_are_looked_at_once() -> None:
    def limits(*of_tasks: ResolvedTask) -> list[int]:
        of_suite = Suite.model_validate({"name": "own", "description": "d", "tasks": [{"task": "t"}]})
        return stage._limits(Request(of_suite, list(of_tasks)))

    named = resolved(documents=[1, 3], available=10_000)
    assert len(limits(named)) == 1
    assert limits(named, resolved(available=350, limit=50)) == [50, 100, 200, 350]
    assert limits(resolved(available=150)) == [100, 150]


class Task:
    """As much of lm-eval's task as the choice of examples takes: it asks once for each document, in their order."""

    def __init__(self, kind: type[ContextSampler]) -> None:
        self.sampler = kind([{"example": n} for n in range(50)])

    def examples(self, documents: list[int], shots: int, of_the_same_split: bool) -> dict[int, Any]:
        self.sampler.set_rnd(1234)
        asked = {n: {"example": n} if of_the_same_split else None for n in documents}
        return {n: self.sampler.sample(shots, document) for n, document in asked.items()}


@pytest.mark.parametrize("of_the_same_split", [False, True])
@pytest.mark.parametrize("kind", [ContextSampler, FirstNSampler])
def test_a_document_keeps_its_examples_whatever_else_is_asked(
    kind: type[ContextSampler], of_the_same_split: bool
) -> None:
    whole = Task(kind).examples(list(range(40)), 5, of_the_same_split)
    for size in (3, 20, 40):
        drawn = sample("t", 0, 40, size)
        task = Task(kind)
        few_shot.keep_examples(task, drawn)
        for _ in range(2):  # scored again, from the same seed
            assert task.examples(drawn, 5, of_the_same_split) == {n: whole[n] for n in drawn}


def test_samples_of_two_seeds_are_other_documents() -> None:
    rows = choices("r" * 40)
    one, other = ([rows[number] for number in sample("t", seed, 40, 10)] for seed in (0, 1))
    (found,) = differences.between("t", Logged(one), Logged(other), "acc", "none")
    assert found.what == "documents"
    assert not differences.between("t", Logged(one), Logged(list(one)), "acc", "none")
