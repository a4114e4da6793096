"""manifest.json as a type: what is saved is loaded, older files too, and what is wrong is named by path and field."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from quantpress.artifact import manifest
from quantpress.artifact.manifest import Artifact, Calibrated, Data, DataSource, File, Filled, Inputs, Manifest
from quantpress.errors import StageError
from quantpress.recipe.recipe import Recipe
from quantpress.runtime import atomic, digests

UNIT = Path(__file__).parents[1]
# Both written before `compute_dtype` and `note` were there.
OLDER = [UNIT / "results" / "manifest.json", UNIT / "report" / "data" / "manifest.json"]
SOURCES = [DataSource(dataset="chat.jsonl", weight=1, sha256="a" * 64), DataSource(dataset="c4", weight=2.5)]
DATA = Data(samples=2, max_sequence_length=16, seed=42, batch_size=8, sources=SOURCES)
CALIBRATED = Calibrated(
    sources=[Filled(dataset="quantpress-chat", requested_sequences=2, sequences=1)],
    sequences=1,
    distinct_sequences=1,
    sequence_length=16,
    tokens=16,
    fingerprint="f" * 64,
)


def without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_nulls(one) for key, one in value.items() if one is not None}
    return [without_nulls(one) for one in value] if isinstance(value, list) else value


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    older = Manifest.load(OLDER[0])
    inputs = older.inputs.model_copy(update={"calibration": DATA, "trust_remote_code": True})
    made = older.model_copy(update={"calibration": CALIBRATED, "inputs": inputs, "compute_dtype": "float32"})
    made.save(tmp_path / "manifest.json")
    assert Manifest.load(tmp_path / "manifest.json") == made
    before = (tmp_path / "manifest.json").read_bytes()
    Manifest.load(tmp_path / "manifest.json").save(tmp_path / "manifest.json")
    assert (tmp_path / "manifest.json").read_bytes() == before


@pytest.mark.parametrize("path", OLDER, ids=["results", "report"])
def test_older_manifests_are_read_and_keep_what_they_say(path: Path, tmp_path: Path) -> None:
    loaded = Manifest.load(path)
    loaded.save(tmp_path / "manifest.json")
    before, after = json.loads(path.read_text()), json.loads((tmp_path / "manifest.json").read_text())
    assert without_nulls(after) == without_nulls(before)
    assert [key for key in after if key in before] == list(before)
    assert loaded.compute_dtype is None
    assert Recipe.model_validate(loaded.recipe).name == loaded.recipe_name


def test_the_digest_is_of_what_is_set_alone() -> None:
    """So that a field added to `Inputs` renames no artifact that there is; a missing calibration has always counted."""
    raw = json.loads(OLDER[0].read_text())
    # The test data's files of the model were left out of it after it was made, so its own digest does not fit.
    assert Inputs.model_validate(raw["inputs"]).digest == digests.sha256_json(raw["inputs"])
    calibrated = raw["inputs"] | {"calibration": without_nulls(DATA.dump()), "compute_dtype": "float32"}
    assert Inputs.model_validate(calibrated).digest == digests.sha256_json(calibrated)
    assert '"weight": 1,' in json.dumps(calibrated)  # not 1.0, which would be another digest


def test_the_digest_of_a_manifest_that_is_whole() -> None:
    loaded = Manifest.load(OLDER[1])
    assert loaded.inputs.digest == loaded.digest


@pytest.mark.parametrize("version", [1, 3, 5, None, "4"])
def test_another_version_is_refused_by_name(version: object, tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    atomic.write_json(path, json.loads(OLDER[0].read_text()) | {"schema_version": version})
    with pytest.raises(StageError) as caught:
        Manifest.load(path)
    assert f"{path} has schema_version {version!r}" in caught.value.message
    assert "reads 4" in caught.value.message


DAMAGE: dict[str, Any] = {
    "bytes.checkpoint": {"bytes": {"model": 1, "checkpoint": "x"}},
    "files.a.sha256": {"files": {"a": {"bytes": 1}}},
    "machine.cores": {"machine": {"processor": "p"}},
    "model": {"model": None},
    "colour": {"colour": "red"},
    "inputs.versions": {"inputs": {"stage": 1, "recipe": {}, "calibration": None, "model": {}}},
}


@pytest.mark.parametrize("field", DAMAGE)
def test_damage_is_named_by_path_and_field(field: str, tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    atomic.write_json(path, json.loads(OLDER[0].read_text()) | DAMAGE[field])
    with pytest.raises(StageError) as caught:
        Artifact(tmp_path).finished()
    assert f"{path} is damaged: {field}: " in caught.value.message


def test_where_nothing_was_finished(tmp_path: Path) -> None:
    assert Artifact(tmp_path).manifest() is None
    with pytest.raises(StageError, match="holds no finished checkpoint"):
        Artifact(tmp_path).finished()


def test_a_table_of_files_and_the_folder(tmp_path: Path) -> None:
    for name in ("same", "other", "longer", "gone"):
        (tmp_path / name).write_text(name)
    table = manifest.file_table(tmp_path)
    assert table["same"] == File(bytes=4, sha256=digests.sha256_file(tmp_path / "same"))
    (tmp_path / "other").write_text("rehto")
    (tmp_path / "longer").write_text("longer than before")
    (tmp_path / "gone").unlink()
    (tmp_path / "gone").symlink_to("nowhere")
    (tmp_path / "new").write_text("")
    present = {path.name for path in tmp_path.iterdir()}
    problems = manifest.file_problems(tmp_path, table, present, "made", by_size=True)
    assert problems[:3] == ["gone: a link or no file", "new: not in the manifest", "longer: 18 bytes, made with 6"]
    assert problems[3].startswith("other: sha256 ")
    by_digest = manifest.file_problems(tmp_path, table, present, "packaged", by_size=False)
    assert [line.partition(" ")[0] for line in by_digest] == ["gone:", "new:", "longer:", "other:"]
    assert ", packaged with " in by_digest[2]
    shutil.rmtree(tmp_path)
    assert all(
        line.endswith(": missing") for line in manifest.file_problems(tmp_path, table, set(), "made", by_size=True)
    )
