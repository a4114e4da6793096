"""What is not ours stays: nothing foreign is replaced or removed, whatever its name, and no link leads out."""

import os
from pathlib import Path

import pytest

from quantpress.errors import InputError, StageError
from quantpress.runtime import atomic, cache, ownership
from quantpress.runtime.inside import inside, require_inside


def test_links_are_entries_and_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere" / "deep").mkdir(parents=True)
    (tmp_path / "elsewhere" / "deep" / "file").write_text("")
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "ours" / "nowhere").symlink_to("nothing")
    assert ownership.entries(tmp_path / "ours") == ["link", "nowhere"]


@pytest.mark.parametrize("kind", ["a file", "a link", "files", "files beside a foreign list"])
def test_what_is_foreign_is_not_replaced(kind: str, tmp_path: Path) -> None:
    target, other = tmp_path / "target", tmp_path / "other"
    if kind == "a file":
        target.write_text("mine")
    elif kind == "a link":
        other.mkdir()
        target.symlink_to(other)
    else:
        target.mkdir()
        (target / "mine").write_text("mine")
        if kind.endswith("list"):
            (target / "list.json").write_text('{"files": ["mine"]}')
    with pytest.raises(InputError):
        ownership.require_ours(target, lambda folder: ownership.strangers_beside(folder, "list.json"), "move it")


def test_what_came_to_an_old_folder_since_is_kept(tmp_path: Path) -> None:
    final = tmp_path / "final"
    final.mkdir()
    (final / "mine").write_text("mine")
    with atomic.staging(final) as staged:
        (staged / "new").write_text("new")
        atomic.publish(staged, final, ownership.entries)
    assert (final / "new").read_text() == "new"
    assert (tmp_path / "final.old" / "mine").read_text() == "mine"


def test_a_leftover_is_ours_by_its_mark_and_only_while_nobody_works_there(tmp_path: Path) -> None:
    foreign, empty = tmp_path / ".a.staging-99999999", tmp_path / ".a.staging-99999999-x"
    foreign.mkdir()
    (foreign / "mine").write_text("mine")
    empty.mkdir()
    (tmp_path / ".a.staging-link").symlink_to(tmp_path)
    with atomic.staging(tmp_path / "a") as live:
        assert atomic.leftovers(tmp_path) == []
        assert not empty.exists()
        with atomic.staging(tmp_path / "a"):
            assert live.is_dir()
    assert (foreign / "mine").exists()
    assert not live.exists()


def test_a_staging_folder_for_a_name_with_brackets(tmp_path: Path) -> None:
    (tmp_path / ".a.staging-99999999-x").mkdir()
    with atomic.staging(tmp_path / "[a]"):
        assert [path.name for path in atomic.leftovers(tmp_path)] == [".a.staging-99999999-x"]


@pytest.mark.parametrize("damage", ["cut short", "edited", "gone", "none"])
def test_a_folder_of_the_cache_that_was_changed_is_made_anew(damage: str, tmp_path: Path) -> None:
    final, made = tmp_path / "model", []

    def make(staged: Path) -> None:
        made.append(staged)
        (staged / "weights").write_bytes(b"0123456789")

    cache.made_once(final, make)
    path = final / "weights"
    if damage == "cut short":
        path.write_bytes(b"01234")
    elif damage == "edited":
        path.write_bytes(b"0123456780")
        os.utime(path, ns=(1, 1))
    elif damage == "gone":
        path.unlink()
    else:
        os.utime(path, ns=(1, 1))  # a copy of a cache has other times
    cache.made_once(final, make)
    assert path.read_bytes() == b"0123456789"
    assert len(made) == (1 if damage == "none" else 2)


def test_a_foreign_folder_in_the_cache_is_not_replaced(tmp_path: Path) -> None:
    final = tmp_path / "model"
    cache.made_once(final, lambda staged: (staged / "weights").touch())
    (final / "weights").unlink()
    (final / "mine").write_text("mine")
    with pytest.raises(InputError, match="did not write: mine"):
        cache.made_once(final, lambda staged: (staged / "weights").touch())
    assert (final / "mine").exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"kept": {"a": 2}, "sha256": "0"}', '{"a": 1}'])
def test_a_kept_answer_that_was_damaged_or_edited_is_none(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(atomic.console, "say", said.append)
    path = tmp_path / "kept.json"
    atomic.write_kept(path, {"a": 1, "b": {"2": 0.1, "10": None}})
    assert atomic.read_kept(path) == {"a": 1, "b": {"2": 0.1, "10": None}}
    path.write_text(text)
    assert atomic.read_kept(path) is None
    assert "found anew" in said[0]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "key").write_text("KEY")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


@pytest.mark.parametrize(
    "to", ["../private/key", "{here}/private/key", "../private", "chain", "../model/../private/key", "circle"]
)
def test_a_link_out_of_a_folder_is_refused(to: str, model: Path) -> None:
    (model / "chain").symlink_to("../private/key")
    (model / "circle").symlink_to("circle")
    (model / "LICENSE").symlink_to(to.format(here=model.parent))
    with pytest.raises(InputError, match=r"leads (out|nowhere)"):
        inside(model, "LICENSE")
    with pytest.raises(InputError, match=r"leads (out|nowhere)"):
        require_inside(model)


@pytest.mark.parametrize("name", ["../private/key", "/etc/hostname", "a/../../private/key"])
def test_a_name_that_leads_out_of_a_folder_is_refused(name: str, model: Path) -> None:
    with pytest.raises(InputError, match="leads out"):
        inside(model, name)


def test_links_within_a_folder_and_into_the_blobs_of_the_hubs_cache_are_taken(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--org--name" / "snapshots" / "abc"
    blobs = tmp_path / "models--org--name" / "blobs"
    for folder in (snapshot, blobs):
        folder.mkdir(parents=True)
    (blobs / "123").write_text("weights")
    (snapshot / "model.safetensors").symlink_to("../../blobs/123")
    (snapshot / "other.safetensors").symlink_to("model.safetensors")
    require_inside(snapshot)
    (blobs / "456").symlink_to("/etc/hostname")
    (snapshot / "LICENSE").symlink_to("../../blobs/456")
    with pytest.raises(InputError, match="leads out"):
        require_inside(snapshot)


def test_no_hint_tells_to_delete() -> None:
    root = Path(__file__).parents[3]
    sources = [path for room in ("pipeline", "evaluate", "serve") for path in (root / room).rglob("*.py")]
    lines = [f"{path.name}: {line.strip()}" for path in sources for line in path.read_text().splitlines()]
    assert len(lines) > 10_000
    assert [line for line in lines if "hint=" in line and "delete" in line.lower()] == []


def test_a_file_of_ours_that_is_nested_too_deeply_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("[" * 100_000)
    with pytest.raises(StageError, match="cannot be read"):
        atomic.read_json(tmp_path / "x.json")
