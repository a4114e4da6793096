"""Looking after artifacts, on artifacts made by hand."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quantpress.artifact import manifest, upkeep
from quantpress.artifact.manifest import Artifact, Manifest, artifact_of
from quantpress.model import headers
from quantpress.runtime import atomic, digests, locks

Run = Callable[..., "subprocess.CompletedProcess[str]"]
RECORDED = Path(__file__).parents[1] / "results" / "manifest.json"


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    made = artifact_of(tmp_path / "artifacts", "tiny", "r4")
    made.checkpoint.mkdir(parents=True)
    (made.checkpoint / "config.json").write_text("{}")
    (made.checkpoint / "model.safetensors").write_bytes(b"weights")
    recorded = Manifest.load(RECORDED)
    changed = {"digest": "d" * 64, "files": manifest.file_table(made.checkpoint)}
    recorded.model_copy(update=changed).save(made.manifest_file)
    return made


def test_an_untouched_artifact_is_as_made(artifact: Artifact, quantpress: Run) -> None:
    assert upkeep.verify(artifact) == []
    done = quantpress("verify")
    assert (done.returncode, done.stdout) == (0, "artifacts/tiny/r4: as made\n")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "model.safetensors").write_bytes(b"weightz"), "sha256"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"weigh"), "5 bytes, made with 7"),
        (lambda folder: (folder / "config.json").unlink(), "config.json: missing"),
        (lambda folder: (folder / "extra.bin").write_bytes(b""), "extra.bin: not in the manifest"),
    ],
    ids=["one byte", "cut short", "missing", "extra"],
)
def test_every_byte_is_checked(
    damage: Callable[[Path], object], words: str, artifact: Artifact, quantpress: Run
) -> None:
    damage(artifact.checkpoint)
    done = quantpress("verify")
    assert done.returncode == 1
    assert words in done.stdout
    assert "is not what was made" in done.stderr


def test_status_says_who_holds_an_artifact(artifact: Artifact, quantpress: Run) -> None:
    assert upkeep.status(artifact.folder.parents[1])[0].held_by is None
    with locks.lock(artifact.folder):
        (row,) = json.loads(quantpress("status", "--json").stdout)
        assert row["held_by"] == str(os.getpid())
    assert row["recipe"] == "r4"
    assert row["accuracy"] is None
    assert time.time() - artifact.manifest_file.stat().st_mtime >= row["age_s"] - 1


def put_scores(folder: Path) -> None:
    """A folder of scores with its mark."""
    folder.mkdir(parents=True)
    (folder / "score.json").write_text(json.dumps({"folder": folder.name}))
    (folder / "samples_boolq.jsonl.gz").write_bytes(b"")


@pytest.fixture
def put_accuracy(artifact: Artifact, results: Callable[[str], Any]) -> Callable[..., None]:
    """Writes the artifact's accuracy.json: the one of a real run, with changes."""
    scored = results("accuracy") | {"checkpoint_digest": "d" * 64}
    return lambda **changes: atomic.write_json(artifact.folder / "accuracy.json", scored | changes)


def test_gc_asks_and_removes_only_what_nothing_refers_to(
    artifact: Artifact, put_accuracy: Callable[..., None], quantpress: Run
) -> None:
    left = artifact.folder.with_name(".r4.staging-99999999-x")
    unused = artifact.folder / "scores" / "smoke-000000000000"
    used = artifact.folder / "scores" / "smoke-111111111111"
    left.mkdir()
    for folder in (unused, used):
        put_scores(folder)
    stray = unused.parent / "notes.txt"
    stray.write_text("")
    kept = artifact.folder / "throughput-unfinished.json"
    kept.write_text("{}")
    put_accuracy(runs={"candidate": {"folder": used.name}})
    (used.parent / f".{used.name}.lock").write_text("")
    with locks.lock(unused):
        assert upkeep.garbage(artifact.folder.parents[1]) == []
    assert upkeep.garbage(artifact.folder.parents[1]) == [left, kept, unused]
    refused = quantpress("gc")
    assert refused.returncode == 2
    assert left.exists()
    assert quantpress("gc", "--yes").returncode == 0
    assert not left.exists()
    assert not kept.exists()
    assert not unused.exists()
    assert stray.exists()
    assert used.exists()
    assert upkeep.verify(artifact) == []


def test_tensor_digests_see_bytes_types_and_shapes(
    tmp_path: Path, safetensors: Callable[[Path, dict[str, tuple[int, ...]]], None]
) -> None:
    for name, shapes in {
        "a": {"x": (2, 3), "y": (4,)},
        "b": {"y": (4,), "x": (2, 3)},
        "c": {"x": (3, 2), "y": (4,)},
    }.items():
        (tmp_path / name).mkdir()
        safetensors(tmp_path / name / "model.safetensors", shapes)
    one, two, three = (headers.digests(tmp_path / name) for name in "abc")
    assert one == two
    assert one["x"] != three["x"]
    assert one["y"] == three["y"]
    path = tmp_path / "b" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    assert headers.digests(tmp_path / "b")["x"] != one["x"]


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "3", "{}", '{"schema_version": 1}'])
@pytest.mark.parametrize("command", [["status"], ["verify"], ["reproduce", "artifacts/tiny/r4"]], ids=lambda c: c[0])
def test_a_manifest_that_is_none(content: str, command: list[str], artifact: Artifact, quantpress: Run) -> None:
    artifact.manifest_file.write_text(content)
    done = quantpress(*command)
    assert done.returncode == 1
    assert artifact.manifest_file.name in done.stdout + done.stderr
    assert "unexpected" not in done.stderr


def test_one_damaged_artifact_does_not_hide_the_others(artifact: Artifact, quantpress: Run) -> None:
    other = Artifact(artifact.folder.with_name("w8"))
    shutil.copytree(artifact.folder, other.folder)
    other.manifest_file.write_text("{")
    done = quantpress("status", "--json")
    rows = {row["recipe"]: row for row in json.loads(done.stdout)}
    assert done.returncode == 1
    assert (rows["r4"]["stage"], rows["r4"]["problem"]) == ("quantized", None)
    assert "manifest.json" in rows["w8"]["problem"]
    assert "damaged" in quantpress("status").stdout


@pytest.mark.parametrize(
    ("decisions", "shown"),
    [([], None), (["pass", "pass"], "pass"), (["pass", "inconclusive"], "inconclusive"), (["fail", "pass"], "fail")],
)
def test_status_shows_the_worst_gate(
    decisions: list[str], shown: str | None, artifact: Artifact, put_accuracy: Callable[..., None]
) -> None:
    put_accuracy(gates=[{"gate": "kl<=1", "decision": decision} for decision in decisions])
    (row,) = upkeep.status(artifact.folder.parents[1])
    assert (row.stage, row.gates) == ("evaluated", shown)


def test_a_damaged_memory_of_digests_is_read_anew(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    for content in ("[]", "null", "{", "3"):
        (tmp_path / "cache.json").write_text(content)
        assert digests.cached_sha256([tmp_path / "a"], tmp_path / "cache.json")[tmp_path / "a"] == digests.sha256_file(
            tmp_path / "a"
        )


NASTY = [("bytes", None), ("bytes", []), ("bytes", {"checkpoint": "x"}), ("files", None), ("files", {"config.json": 5})]


@pytest.mark.parametrize(("key", "value"), NASTY, ids=str)
@pytest.mark.parametrize("command", ["status", "verify", "gc", "reproduce"])
def test_wrong_values_inside_a_manifest(
    command: str, key: str, value: object, artifact: Artifact, quantpress: Run
) -> None:
    record = json.loads(artifact.manifest_file.read_text())
    artifact.manifest_file.write_text(json.dumps(record | {key: value}))
    done = quantpress(*([command, str(artifact.folder)] if command == "reproduce" else [command]))
    assert "unexpected" not in done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode == 1
    assert f"manifest.json is damaged: {key}" in done.stdout + done.stderr


@pytest.mark.parametrize(
    "change", [{"gates": 5}, {"gates": [None]}, {"suite": None}, {"runs": None}, {"runs": {"a": None}}], ids=str
)
@pytest.mark.parametrize("command", ["status", "gc"])
def test_wrong_values_inside_a_result(
    command: str, change: dict[str, object], put_accuracy: Callable[..., None], quantpress: Run
) -> None:
    put_accuracy(**change)
    done = quantpress(command)
    assert "unexpected" not in done.stderr
    assert done.returncode == 1
    assert f"accuracy.json is damaged: {next(iter(change))}" in done.stdout + done.stderr


def test_verify_looks_at_every_artifact(artifact: Artifact, quantpress: Run) -> None:
    other = Artifact(artifact.folder.with_name("w8"))
    shutil.copytree(artifact.folder, other.folder)
    artifact.manifest_file.write_text("{")
    (other.checkpoint / "config.json").write_text("[]")
    problems = json.loads(quantpress("verify", "--json").stdout)
    assert all(problems.values())
    assert len(problems) == 2


def test_scores_are_kept_for_a_result_of_another_checkpoint(
    artifact: Artifact, put_accuracy: Callable[..., None]
) -> None:
    used = artifact.folder.parent / "baseline" / "scores" / "smoke-111111111111"
    put_scores(used)
    put_accuracy(checkpoint_digest="e" * 64, runs={"baseline": {"folder": used.name}})
    assert upkeep.garbage(artifact.folder.parents[1]) == []
    (artifact.folder / "accuracy").mkdir()
    (artifact.folder / "accuracy.json").rename(artifact.folder / "accuracy" / "smoke.json")
    assert upkeep.garbage(artifact.folder.parents[1]) == []
    (artifact.folder / "accuracy" / "smoke.json").unlink()
    assert upkeep.garbage(artifact.folder.parents[1]) == [used]
