"""Publishing and locks on file systems that lack something: found before the work, then another way or a reason."""

import ctypes
import errno
import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from quantpress.errors import CapabilityError, StageError
from quantpress.runtime import atomic, copying, locks

NOTHING_FOREIGN = lambda _: []  # noqa: E731


def publish(final: Path, content: str) -> None:
    with atomic.staging(final) as staged:
        (staged / "weights").write_text(content)
        (staged / "manifest.json").write_text("{}")
        atomic.publish(staged, final, NOTHING_FOREIGN)


def without_exchange(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refused(*_: object) -> int:
        ctypes.set_errno(code)
        return -1

    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: SimpleNamespace(renameat2=refused))


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP])
def test_without_an_atomic_exchange(code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_exchange(monkeypatch, code)
    for content in ("old", "new"):
        publish(tmp_path / "final", content)
    assert (tmp_path / "final" / "weights").read_text() == "new"
    assert list(tmp_path.iterdir()) == [tmp_path / "final"]


def unmovable(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """As overlayfs has it of a folder that came with the image."""
    rename = Path.rename

    def refusing(self: Path, target: Path) -> Path:
        if self == folder:
            raise OSError(errno.EXDEV, "Invalid cross-device link", str(self))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refusing)


def test_a_folder_that_overlayfs_cannot_move_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(tmp_path / "final", "old")
    with monkeypatch.context() as patched:
        without_exchange(patched, errno.EXDEV)
        patched.setattr(atomic, "_require_publishing", lambda _: None)
        unmovable(patched, tmp_path / "final")
        publish(tmp_path / "final", "new")
    assert (tmp_path / "final" / "weights").read_text() == "new"
    assert list(tmp_path.iterdir()) == [tmp_path / "final"]


@pytest.fixture
def overlay(tmp_path: Path) -> Iterator[Path]:
    """A real one, where this user may mount; final/ came with the image."""
    image = tmp_path / "image"
    publish(image / "final", "old")
    (image / "final" / "sub").mkdir()
    (image / "final" / "sub" / "file").write_text("old")
    layers = {"upperdir": tmp_path / "upper", "workdir": tmp_path / "work"}
    merged = tmp_path / "merged"
    for path in (*layers.values(), merged):
        path.mkdir()
    options = ",".join(["lowerdir=" + str(image), *(f"{name}={path}" for name, path in layers.items())])
    command = ["mount", "-t", "overlay", "overlay", "-o", f"{options},redirect_dir=off", str(merged)]
    try:
        done = subprocess.run(command, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount here")
    if done.returncode != 0:
        pytest.skip("this user cannot mount an overlay")
    yield merged
    subprocess.run(["umount", str(merged)], check=True)


def test_a_folder_of_an_image_is_replaced(overlay: Path) -> None:
    with pytest.raises(OSError, match="cross-device"):
        (overlay / "final").rename(overlay / "moved")
    publish(overlay / "final", "new")
    assert sorted(path.name for path in (overlay / "final").iterdir()) == ["manifest.json", "weights"]
    assert (overlay / "final" / "weights").read_text() == "new"


def test_what_cannot_be_put_into_place_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(tmp_path / "final", "old")
    monkeypatch.setattr(atomic, "_require_publishing", lambda _: None)
    without_exchange(monkeypatch, errno.EXDEV)
    unmovable(monkeypatch, tmp_path / "final")
    monkeypatch.setattr(atomic, "_remove_marks_last", lambda _: (_ for _ in ()).throw(OSError(errno.EBUSY, "busy")))
    with pytest.raises(StageError, match=r"complete in .*final\.new"):
        publish(tmp_path / "final", "new")
    assert (tmp_path / "final.new" / "weights").read_text() == "new"
    assert (tmp_path / "final" / "weights").read_text() == "old"


def test_where_no_folder_can_be_put_into_place_nothing_is_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_exchange(monkeypatch, errno.EPERM)
    with pytest.raises(CapabilityError, match="cannot move a finished folder into place"):
        publish(tmp_path / "final", "new")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_where_no_lock_is_kept_nothing_is_begun(code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> bytes:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "fcntl", refused)
    with pytest.raises(CapabilityError, match="keeps no locks"), locks.lock(tmp_path / "a"):
        pass


def test_looking_refuses_no_writer(tmp_path: Path) -> None:
    """Another process looks all the time; flock, taken for an instant, refused one of 28 writers."""
    target = tmp_path / "a"
    with locks.lock(target):
        assert locks.lock_owner(target) == str(os.getpid())
    code = "import sys\nfrom pathlib import Path\nfrom quantpress.runtime import locks\nprint('looks', flush=True)\n"
    code += "while True: locks.lock_owner(Path(sys.argv[1]))"
    looking = subprocess.Popen([sys.executable, "-c", code, str(target)], stdout=subprocess.PIPE, text=True)
    try:
        assert looking.stdout is not None
        assert looking.stdout.readline() == "looks\n"
        for _ in range(300):
            with locks.lock(target):
                pass
    finally:
        looking.kill()
        looking.wait()
        looking.stdout.close()
    assert locks.lock_owner(target) is None


def test_users_share_a_folder_and_keep_whoever_wants_it_alone_out(tmp_path: Path) -> None:
    target = tmp_path / "model"
    with locks.using(target), locks.using(target):
        assert locks.lock_owner(target) == str(os.getpid())
        with pytest.raises(StageError), locks.lock(target):
            pass
    with locks.lock(target):
        pass


@pytest.mark.parametrize("kind", ["symbolic", "hard", "pipe"])
def test_a_lock_file_that_is_a_link_touches_nothing(kind: str, tmp_path: Path) -> None:
    precious, place = tmp_path / "precious", tmp_path / ".a.lock"
    precious.write_text("mine")
    if kind == "symbolic":
        place.symlink_to(precious)
    elif kind == "hard":
        place.hardlink_to(precious)
    else:
        os.mkfifo(place)
    with pytest.raises(StageError, match="a link or no file"), locks.lock(tmp_path / "a"):
        pass
    with pytest.raises(StageError, match="a link or no file"), locks.turn(tmp_path / "a"):
        pass
    assert precious.read_text() == "mine"
    assert locks.lock_owner(tmp_path / "a") is None


def test_copies_take_no_space_or_cannot_be_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "weights"
    source.write_text("weights")
    monkeypatch.setattr(copying, "reflink", lambda *_: False)
    assert copying.copy_or_share(source, tmp_path / "package" / "weights")
    assert source.stat().st_mode & 0o222 == 0
    assert copying.shared(tmp_path) == ["weights"]

    def no_links(*_: object) -> None:
        raise PermissionError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(os, "link", no_links)
    assert not copying.copy_or_share(source, tmp_path / "copy")
    assert not (tmp_path / "copy").samefile(source)


def test_a_file_that_others_hold_too_is_copied_and_left_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights of what was adopted are hard links to their source: a package must not take its rights away."""
    source, mine = tmp_path / "theirs", tmp_path / "checkpoint" / "weights"
    source.write_text("weights")
    monkeypatch.setattr(copying, "reflink", lambda *_: False)
    copying.share_or_copy(source, mine)
    assert mine.samefile(source)
    assert not copying.copy_or_share(mine, tmp_path / "package" / "weights")
    assert not (tmp_path / "package" / "weights").samefile(source)
    assert source.stat().st_mode & 0o222


def test_a_reflink_is_a_file_of_its_own_or_none(tmp_path: Path) -> None:
    source, target = tmp_path / "a", tmp_path / "b"
    source.write_text("a" * 5000)
    assert copying.reflink(source, target) == target.exists()
    if target.exists():
        target.write_text("b")
        assert source.read_text() == "a" * 5000
