"""throughput.json: what is written is what is read, older files are read too, and what is not ours is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from quantpress.artifact.throughput import Throughput
from quantpress.errors import StageError
from quantpress.runtime import atomic

UNIT = Path(__file__).parents[1]
# Of older versions, which wrote fewer keys.
OLDER = [UNIT / "results" / "throughput.json", UNIT / "report" / "data" / "throughput.json"]


def document(path: Path = OLDER[0]) -> Any:
    return json.loads(path.read_text())


def without_additions(ours: Any, theirs: Any) -> Any:
    """Our JSON less the keys that the other one does not have."""
    if isinstance(theirs, dict):
        return {key: without_additions(ours[key], value) for key, value in theirs.items()}
    if isinstance(theirs, list):
        return [without_additions(one, other) for one, other in zip(ours, theirs, strict=True)]
    return ours


@pytest.mark.parametrize("path", OLDER, ids=["results", "report"])
def test_what_is_saved_is_what_was_loaded(path: Path, tmp_path: Path) -> None:
    loaded = Throughput.load(path)
    loaded.save(tmp_path / "throughput.json")
    assert Throughput.load(tmp_path / "throughput.json") == loaded
    saved = (tmp_path / "throughput.json").read_text()
    # Byte for byte: a number of requests does not become 4.0, and a workload gets no keys that it did not have.
    ours = without_additions(json.loads(saved), document(path)) | {"schema_version": 4}
    assert json.dumps(ours) == json.dumps(document(path))
    assert json.loads(saved)["workload"] == document(path)["workload"]


def test_what_older_versions_did_not_write_has_a_default() -> None:
    loaded = Throughput.load(OLDER[0])
    assert (loaded.weights, loaded.complete, loaded.chat, loaded.served) == ("real", True, None, None)
    assert (loaded.servers["candidate"].argv, loaded.servers["candidate"].env) == (None, None)
    assert (loaded.name, loaded.is_complete) == ("smoke", True)
    assert {cell.start for cell in loaded.cells} == {0}


def test_another_version_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "throughput.json"
    for version in (3, 6, None):
        atomic.write_json(path, document() | {"schema_version": version})
        with pytest.raises(StageError, match=f"{path} has schema_version {version}; this version .* reads 4, 5"):
            Throughput.load(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"summary": [{"concurrency": "many"}]}, r"summary\.0\.concurrency: .* found 'many'"),
        ({"cells": None}, "cells: .* found None"),
        ({"speeds": 1}, "speeds: Extra inputs are not permitted"),
        ({"servers": {"candidate": {"comand": "vllm"}}}, r"servers\.candidate\.command: Field required"),
    ],
)
def test_a_damaged_file_is_refused_by_name(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    path = tmp_path / "throughput.json"
    atomic.write_json(path, document() | change)
    with pytest.raises(StageError, match=f"{path} is damaged: {words}"):
        Throughput.load(path)


@pytest.mark.parametrize("text", ["", "[]", '{"schema_version": 4, "cells": ['])
def test_what_is_no_result_at_all_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "throughput.json"
    path.write_text(text)
    with pytest.raises(StageError, match=str(path)):
        Throughput.load(path)
