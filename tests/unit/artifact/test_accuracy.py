"""accuracy.json as a record: saved and read alike, and files that are something else are named."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quantpress.artifact.accuracy import Accuracy, Run
from quantpress.artifact.manifest import Artifact
from quantpress.artifact.results import results_of
from quantpress.errors import StageError
from quantpress.report.facts import collect
from quantpress.runtime import atomic

UNIT = Path(__file__).parents[1]
FILES = [UNIT / "results" / "accuracy.json", UNIT / "report" / "data" / "accuracy.json"]


def without_defaults(value: Any) -> Any:
    """Without what older files lack: nothing, an empty list, a metric that is out of 1, the first rules."""
    if isinstance(value, dict):
        lacking = (("out_of", 1), ("rules", 1))
        kept = {key: item for key, item in value.items() if item not in (None, []) and (key, item) not in lacking}
        return {key: without_defaults(item) for key, item in kept.items()}
    return [without_defaults(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.parent.name)
def test_what_is_saved_is_what_was_read(path: Path, tmp_path: Path) -> None:
    read = Accuracy.load(path)
    read.save(tmp_path / "accuracy.json")
    assert Accuracy.load(tmp_path / "accuracy.json") == read
    before, after = (json.loads(file.read_text()) for file in (path, tmp_path / "accuracy.json"))
    runs = before.pop("runs"), after.pop("runs")  # those of the oldest files lack what is a table today
    assert without_defaults(after) == without_defaults(before)
    for side, run in runs[0].items():
        assert without_defaults(run).items() <= without_defaults(runs[1][side]).items()


def test_a_file_without_what_later_versions_added_is_read() -> None:
    read = Accuracy.load(FILES[0])
    assert (read.served, read.settings.compute_dtype, read.gates) == (None, None, [])
    assert read.name == "smoke"
    assert read.documents == 192


def test_scores_are_saved_and_read_alike(tmp_path: Path) -> None:
    run = Run(key="k", folder="smoke-0", scores={"boolq": {"acc,none": 0.5}}, documents={"boolq": 2}, command="lm_eval")
    run.save(tmp_path / "score.json")
    assert Run.load(tmp_path / "score.json") == run
    assert run.dump()["schema_version"] == 4  # accuracy.json repeats the whole file


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema_version": 3}, "has schema_version 3; this version of quantpress reads 4"),
        ({"schema_version": None}, "has schema_version None"),
        ({"suite": None}, "is damaged: suite: Input should be a valid string, found None"),
        ({"gates": [{"gate": "kl<=1", "decision": "perhaps"}]}, r"is damaged: gates\.0\.decision: .*found 'perhaps'"),
        ({"tasks": {"boolq": {"metric": "acc"}}}, r"is damaged: tasks\.boolq\.documents: Field required"),
        ({"unheard": 1}, "is damaged: unheard: Extra inputs are not permitted"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_file_that_is_not_ours_is_named_with_its_field(
    change: dict[str, Any], words: str, made: Artifact, results: Callable[[str], Any]
) -> None:
    path = made.folder / "accuracy.json"
    atomic.write_json(path, results("accuracy") | change)
    with pytest.raises(StageError, match=words) as error:
        results_of(made, Accuracy).newest()
    assert error.value.message.startswith(str(path))


def test_a_mistake_in_our_code_is_not_called_a_damaged_file(made: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    def mistaken(_: Accuracy) -> float:
        raise AttributeError("no such name")

    monkeypatch.setattr(Accuracy, "documents", property(mistaken))
    with pytest.raises(AttributeError, match="no such name"):
        collect.collect(made.folder.parent, None)
