"""Scores that were kept are compared only if both sides were asked alike, whatever put them there."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from lm_eval_files import choices, without

from quantpress.errors import StageError
from quantpress_evaluate import stage
from quantpress_evaluate.request import Request
from quantpress_evaluate.suite import ResolvedTask, Suite


def keep(folder: Path, rows: list[dict[str, Any]]) -> Path:
    folder.mkdir()
    rows = [{**row, "arguments": [list(part.values()) for part in row["arguments"].values()]} for row in rows]
    with gzip.open(folder / "samples_piqa.jsonl.gz", "wt") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in rows)
    return folder


@pytest.fixture
def asked() -> Request:
    suite = Suite.model_validate({"name": "own", "description": "d", "tasks": [{"task": "piqa"}]})
    task = ResolvedTask(task="piqa", like="piqa", metric="acc", filter=None, weight=1.0, data=None)
    return Request(suite, [task], count_no_signal=True)


def compared(folder: Path, asked: Request, rows: list[dict[str, Any]]) -> Any:
    folders = {"baseline": keep(folder / "base", choices("rrrw")), "candidate": keep(folder / "own", rows)}
    return stage._compared(asked, folders, "candidate")


def test_scores_of_the_same_questions_are_compared(tmp_path: Path, asked: Request) -> None:
    assert compared(tmp_path, asked, choices("rrrw")).tasks["piqa"].difference == 0


@pytest.mark.parametrize(
    ("rows", "what"),
    [
        (choices("rrrw", shots=5), "prompts"),
        (without(choices("rrrw", shots=5), "prompt_hash"), "prompts"),
        (choices("rrr"), "documents"),
        (choices("rrrw", target_hash="other"), "right answers"),
    ],
)
def test_scores_of_other_questions_are_not(
    rows: list[dict[str, Any]], what: str, tmp_path: Path, asked: Request
) -> None:
    with pytest.raises(StageError, match=f"not scored alike:\n *piqa: {what}") as refused:
        compared(tmp_path, asked, rows)
    assert f"move {tmp_path / 'base'}" in (refused.value.hint or "")


def test_a_metric_that_is_no_number_of_a_document_is_no_traceback(tmp_path: Path, asked: Request) -> None:
    rows = [{**row, "acc": [row["acc"], 1]} for row in choices("rrrw")]
    with pytest.raises(StageError, match="piqa cannot be compared: acc is no number of each document"):
        compared(tmp_path, asked, rows)
