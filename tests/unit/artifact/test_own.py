"""gc and quantize on folders in which others keep things."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from quantpress.artifact import own, upkeep
from quantpress.artifact.manifest import Artifact
from quantpress.cli import gc
from quantpress.errors import InputError
from quantpress.quantize import stage
from quantpress.runtime import console, locks
from quantpress_evaluate import sanity

Pack = Callable[..., Path]


def scores(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "score.json").write_text(json.dumps({"folder": folder.name}))
    (folder / "next_tokens.npy").write_bytes(b"")
    return folder


@pytest.mark.parametrize("kept", [sanity.LOGITS, sanity.LIKELIHOODS])
def test_what_either_backend_keeps_of_a_score_is_ours(tmp_path: Path, kept: str) -> None:
    folder = scores(tmp_path / "scores" / "smoke-1")
    (folder / kept).write_bytes(b"")
    assert own.score_strangers(folder) == []


def test_gc_touches_nothing_of_others(tmp_path: Path, made: Artifact) -> None:
    out = tmp_path / "artifacts"
    game = out / "mygame" / "level1" / "scores"
    (game / "best").mkdir(parents=True)
    (game / "highscores.txt").write_text("mine")
    (game / ".requests-mine").write_text("mine")
    foreign = out / "mygame" / ".old.staging-99999999"
    foreign.mkdir()
    (foreign / "mine").write_text("mine")
    (made.folder / "scores" / "notes").mkdir(parents=True)
    (made.folder / "scores" / "notes" / "n.txt").write_text("mine")
    assert upkeep.garbage(out) == []


def test_gc_follows_no_link_out(tmp_path: Path, made: Artifact) -> None:
    elsewhere = scores(tmp_path / "elsewhere" / "baseline" / "scores" / "smoke-000000000000")
    out = tmp_path / "artifacts"
    (out / "linked").symlink_to(tmp_path / "elsewhere")
    (made.folder.parent / "baseline").symlink_to(tmp_path / "elsewhere" / "baseline")
    (made.folder / "scores").symlink_to(elsewhere.parent)
    assert upkeep.garbage(out) == []


def test_scores_with_something_foreign_among_them_are_kept(made: Artifact) -> None:
    out, unused = made.folder.parents[1], scores(made.folder / "scores" / "smoke-000000000000")
    assert upkeep.garbage(out) == [unused]
    (unused / "notes.txt").write_text("mine")
    assert upkeep.garbage(out) == []


def test_gc_looks_again_before_it_removes(made: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    """While it asks, one run begins, and another one ends that names what was listed."""
    out = made.folder.parents[1]
    used, held, free = (scores(made.folder / "scores" / f"smoke-{number * 12}") for number in "123")
    other = scores(out / "other" / "baseline" / "scores" / "smoke-444444444444")
    result = json.loads((made.folder / "accuracy.json").read_text())
    shown: dict[str, Any] = {}

    def meanwhile() -> str:
        run = result["runs"]["candidate"]
        named = result | {"runs": {"candidate": run | {"folder": used.name}, "baseline": run | {"folder": held.name}}}
        (made.folder / "accuracy.json").write_text(json.dumps(named))
        working.__enter__()
        return "y"

    working = locks.using(out / "other")
    monkeypatch.setattr(gc, "sys", SimpleNamespace(stdin=SimpleNamespace(isatty=lambda: True), stderr=sys.stderr))
    monkeypatch.setattr("builtins.input", meanwhile)
    monkeypatch.setattr(console, "show", lambda value, _: shown.update(value))
    assert set(upkeep.garbage(out)) == {used, held, free, other}
    gc.run(gc.Options(out=out, yes=False))
    working.__exit__(None, None, None)
    assert shown["removed"] == [str(free)]
    assert used.exists()
    assert held.exists()
    assert other.exists()
    assert not free.exists()


def test_an_artifact_is_ours_with_its_results_and_its_package(made: Artifact, pack: Pack) -> None:
    pack()
    scores(made.folder / "scores" / "smoke-111111111111")
    results = ("accuracy/x.json", "throughput/chat.json", "layer_errors.json", "likelihoods/0123456789ab.json")
    others = ("calibrations.json", "own-chats/0123/chats.jsonl", "own-chats/0123/about.json", "scores/.looks.json")
    for name in (*results, *others, "other-calibration.json"):
        (made.folder / name).parent.mkdir(exist_ok=True, parents=True)
        (made.folder / name).write_text("{}")
    (made.folder / "scores" / ".requests-0123456789ab_rank0.db").write_text("")
    (made.folder / "scores" / "..requests-0123456789ab.lock").write_text("")
    assert own.strangers(made.folder) == []
    stage.require_replaceable(made)


FOREIGN = ["notes.txt", "checkpoint/mine.py", "package/.git/config", "scores/highscores.txt", "likelihoods/a.json"]


@pytest.mark.parametrize("name", FOREIGN)
def test_quantize_replaces_nothing_of_others(name: str, made: Artifact, pack: Pack) -> None:
    pack()
    (made.folder / name).parent.mkdir(parents=True, exist_ok=True)
    (made.folder / name).write_text("mine")
    with pytest.raises(InputError, match=f"did not write: {name}"):
        stage.require_replaceable(made)


def test_quantize_replaces_no_folder_that_has_only_the_name(tmp_path: Path) -> None:
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "manifest.json").write_text('{"name": "my web app"}')
    (folder / "chapter1.tex").write_text("mine")
    with pytest.raises(InputError, match=r"chapter1\.tex, manifest\.json"):
        stage.require_replaceable(Artifact(folder))
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(InputError, match="is a link"):
        stage.require_replaceable(Artifact(tmp_path / "link"))


def test_a_manifest_without_files_proves_nothing(made: Artifact) -> None:
    for files in ({}, []):
        found = json.loads(made.manifest_file.read_text()) | {"files": files}
        made.manifest_file.write_text(json.dumps(found))
        assert upkeep.verify(made)


def test_a_linked_file_of_a_checkpoint_is_no_file_of_it(made: Artifact, tmp_path: Path) -> None:
    path = made.checkpoint / "tokenizer.json"
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert upkeep.verify(made) == ["tokenizer.json: a link or no file"]
