"""Complete or absent: publishing, locks, digests."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from quantpress.errors import CapabilityError, StageError, slug
from quantpress.runtime import atomic, digests, disk, locks


def test_what_several_runs_want_at_once_is_made_once_and_the_others_wait(tmp_path: Path) -> None:
    code = "import sys,time;from pathlib import Path;from quantpress.runtime.cache import made_once\n"
    code += "def make(staged):\n  time.sleep(1);(staged/'made').write_text('');print('made')\n"
    code += f"print((made_once(Path({str(tmp_path / 'model')!r}), make)/'made').is_file())"
    runs = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = sorted(run.communicate(timeout=60)[0].split() for run in runs)
    assert said == [["True"], ["True"], ["made", "True"]]


def test_publish_replaces_the_whole_directory(tmp_path: Path) -> None:
    final = tmp_path / "artifact"
    for content in ("old", "new"):
        with atomic.staging(final) as staged:
            (staged / f"{content}.txt").write_text(content)
            atomic.publish(staged, final, lambda _: [])
    assert [path.name for path in final.iterdir()] == ["new.txt"]
    assert list(tmp_path.iterdir()) == [final]


def test_an_interrupted_run_leaves_the_old_artifact_and_nothing_else(tmp_path: Path) -> None:
    final = tmp_path / "artifact"
    final.mkdir()
    (final / "old.txt").write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic.staging(final) as staged:
        (staged / "half.txt").write_text("half")
        raise KeyboardInterrupt
    assert [path.name for path in final.iterdir()] == ["old.txt"]
    assert list(tmp_path.iterdir()) == [final]


def test_leftovers_of_a_killed_run_are_removed_by_the_next(tmp_path: Path) -> None:
    (tmp_path / ".artifact.staging-99999999").mkdir()
    with atomic.staging(tmp_path / "artifact"):
        assert not (tmp_path / ".artifact.staging-99999999").exists()


def test_a_second_run_is_told_who_holds_the_lock_and_a_dead_owner_holds_nothing(tmp_path: Path) -> None:
    target = tmp_path / "artifact"
    code = "import sys,time;from pathlib import Path;from quantpress.runtime import locks\n"
    code += f"with locks.lock(Path({str(target)!r})): print('held', flush=True); time.sleep(60)"
    owner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    assert owner.stdout.readline() == "held\n"
    with pytest.raises(StageError, match=f"process {owner.pid}"), locks.lock(target):
        pass
    owner.kill()
    owner.wait()
    with locks.lock(target):
        pass


def test_a_remembered_digest_follows_the_file(tmp_path: Path) -> None:
    path, cache = tmp_path / "x", tmp_path / "cache.json"
    path.write_text("one")
    first = digests.cached_sha256([path], cache)
    assert digests.cached_sha256([path], cache) == first == {path: digests.sha256_file(path)}
    path.write_text("two")
    os.utime(path, ns=(time.time_ns(), time.time_ns() + 1))
    assert digests.cached_sha256([path], cache) == {path: digests.sha256_file(path)} != first


def test_too_little_space_is_said_before_work_starts(tmp_path: Path) -> None:
    with pytest.raises(CapabilityError, match="GB needed"):
        disk.require_space(tmp_path / "not" / "there", 10**18)


def test_a_target_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CapabilityError, match="not a writable folder"):
        disk.require_writable(tmp_path / "file" / "artifacts")


@pytest.mark.parametrize("name", ["../../etc", "a/b", "a b;rm", "..", ""])
def test_a_name_is_one_safe_path_component(name: str) -> None:
    assert "/" not in slug(name)
    assert slug(name) not in ("", ".", "..")


@pytest.mark.parametrize("content", [None, "", "{", "nothing"])
def test_what_is_kept_and_damaged_is_nothing(content: str | None, tmp_path: Path) -> None:
    path = tmp_path / "kept.json"
    if content is not None:
        path.write_text(content)
    assert atomic.read_kept(path) is None


def test_files_of_one_name_in_two_folders_have_a_digest_each(tmp_path: Path) -> None:
    paths = [tmp_path / folder / "w.safetensors" for folder in "ab"]
    for path in paths:
        path.parent.mkdir()
        path.write_text(str(path))
    found = digests.cached_sha256(paths, tmp_path / "cache.json")
    assert found == {path: digests.sha256_file(path) for path in paths}


def test_equal_size_and_time_are_not_enough(tmp_path: Path) -> None:
    path, cache = tmp_path / "x", tmp_path / "cache.json"
    path.write_text("one")
    os.utime(path, ns=(10**18, 10**18))
    digests.cached_sha256([path], cache)
    path.write_text("two")
    os.utime(path, ns=(10**18, 10**18))
    assert digests.cached_sha256([path], cache) == {path: digests.sha256_file(path)}


def test_an_edited_memory_of_digests_is_not_believed(tmp_path: Path) -> None:
    path, cache = tmp_path / "x", tmp_path / "cache.json"
    path.write_text("one")
    known = digests.cached_sha256([path], cache)[path]
    cache.write_text(cache.read_text().replace(known, "0" * 64))
    assert digests.cached_sha256([path], cache) == {path: known}


@pytest.mark.parametrize("change", ["content", "another file", "gone", "content, with its old time"])
def test_what_changed_while_in_use_is_not_what_was_loaded(change: str, tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_text("one")
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    with pytest.raises(StageError, match="nobody knows what was loaded"), digests.unchanged([path]):
        if change == "another file":
            path.rename(tmp_path / "other")
            path.write_text("one")
        elif change == "gone":
            path.unlink()
        else:
            path.write_text("two")
        if change.endswith("time"):
            os.utime(path, ns=times)
    path.write_text("one")
    with digests.unchanged([path]):
        path.read_text()
