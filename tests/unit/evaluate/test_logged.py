"""Samples from lm-eval's own files and from ours, read alike."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quantpress.errors import InputError
from quantpress_evaluate.comparison import logged
from quantpress_evaluate.comparison.runs import one_run


def sample(number: int, right: bool) -> dict[str, Any]:
    target = number % 2
    chosen = target if right else 1 - target
    return {
        "doc_id": number,
        "doc_hash": str(number),
        "target": str(target),
        "arguments": [["context", " yes"], ["context", " no"]],
        "filtered_resps": [["-1.0" if index == chosen else "-2.0", "False"] for index in range(2)],
        "acc": float(right),
    }


def ours(folder: Path, task: str, rights: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with gzip.open(folder / f"samples_{task}.jsonl.gz", "wt") as stream:
        stream.writelines(json.dumps(sample(n, letter == "r")) + "\n" for n, letter in enumerate(rights))
    return folder


def lm_evals(folder: Path, task: str, rights: str, time: str = "2026-01-01T00-00-00.000001") -> Path:
    """As lm-eval 0.4.13's EvaluationTracker writes them: arguments by name, below a folder named after the model."""
    (folder / "some__model").mkdir(parents=True, exist_ok=True)
    rows = [sample(number, letter == "r") for number, letter in enumerate(rights)]
    for row in rows:
        row["arguments"] = {
            f"gen_args_{n}": {"arg_0": context, "arg_1": answer} for n, (context, answer) in enumerate(row["arguments"])
        }
    path = folder / "some__model" / f"samples_{task}_{time}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in reversed(rows)))
    return folder


def test_both_kinds_of_files_hold_the_same(tmp_path: Path) -> None:
    one = one_run(ours(tmp_path / "a", "arc_easy", "rwr")).tasks["arc_easy"]
    two = one_run(lm_evals(tmp_path / "b", "arc_easy", "rwr")).tasks["arc_easy"]
    assert one == two
    assert [row["acc"] for row in one.samples] == [1.0, 0.0, 1.0]


def test_compare_on_the_command_line(tmp_path: Path, quantpress: Callable[..., Any]) -> None:
    ours(tmp_path / "base", "piqa", "r" * 40 + "w" * 10)
    lm_evals(tmp_path / "own", "piqa", "r" * 30 + "w" * 20)
    lm_evals(tmp_path / "own", "other", "r" * 5)
    done = quantpress("compare", "base", "own", "--json", "--gate", "piqa:recovery>=0.99")
    assert done.returncode == 3
    assert "own: piqa:recovery>=0.99 failed: 0.75" in done.stderr
    result = json.loads(done.stdout)
    assert set(result["tasks"]) == {"piqa"}
    assert result["left_out"] == [{"task": "other", "reason": "only the candidate has it"}]
    assert (result["tasks"]["piqa"]["lost"], result["tasks"]["piqa"]["gained"]) == (10, 0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere", "base"], "nowhere is not a folder"),
        (["base", "empty"], "holds no samples"),
        (["base", "damaged"], "does not hold lm-eval's samples"),
        (["base", "another"], "boolq: only the candidate has it"),
        (["base", "fewer"], "documents (1 documents): 4 (0 to 3) in the baseline, 3 (0 to 2) in the candidate"),
        (["base", "base", "--metric", "acc_norm"], "was not scored by acc_norm"),
        (["base", "base", "--gate", "boolq:recovery>=1"], "not a task of the suite"),
    ],
)
def test_what_cannot_be_compared(
    arguments: list[str], words: str, tmp_path: Path, quantpress: Callable[..., Any]
) -> None:
    ours(tmp_path / "base", "piqa", "rrww")
    ours(tmp_path / "another", "boolq", "rrww")
    ours(tmp_path / "fewer", "piqa", "rrw")
    (tmp_path / "empty").mkdir()
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "samples_piqa.jsonl").write_text("[]\n")
    done = quantpress("compare", *arguments)
    assert done.returncode in (1, 2)
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_damaged_file_is_wrong_input(tmp_path: Path) -> None:
    path = tmp_path / "samples_piqa.jsonl.gz"
    path.write_bytes(b"not gzip")
    with pytest.raises(InputError, match="does not hold"):
        logged.read(path)


@pytest.mark.parametrize(
    "change",
    [
        {"filtered_resps": [["nan", "False"], ["-1", "False"]]},
        {"filtered_resps": [["-1", "False"]]},
        {"filtered_resps": None},
        {"acc": 5},
        {"acc": None},
        {"doc_hash": None},
        {"doc_id": 0},
    ],
    ids=str,
)
def test_rows_that_cannot_be_compared(change: dict[str, Any], tmp_path: Path) -> None:
    rows = [sample(0, True), sample(1, True) | change]
    path = tmp_path / "samples_piqa.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InputError, match=r"can be compared|there twice"):
        logged.read(path)
