"""Copies that take no space, where the file system can make them."""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path

_WRITABLE = 0o222
_FICLONE = 0x40049409  # ioctl_ficlone(2): btrfs, XFS, bcachefs, NFS 4.2


def reflink(source: Path, target: Path) -> bool:
    """A copy that shares its blocks until one of the two is changed; False, and no file, where there is none.

    Raises FileExistsError for a target that is there.
    """
    try:
        with source.open("rb") as old, target.open("xb") as new:
            fcntl.ioctl(new, _FICLONE, old.fileno())
    except FileExistsError:
        raise
    except OSError:
        target.unlink(missing_ok=True)
        return False
    return True


def copy_or_share(source: Path, target: Path) -> bool:
    """A copy by reflink, or a hard link that nobody may write to, or a copy; whether it is a hard link.

    A file that has another name already and may be written to is somebody else's too: it is copied.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if reflink(source, target):
        return False
    if _is_shared(source) and source.stat().st_mode & _WRITABLE:
        shutil.copyfile(source, target)
        return False
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)
        return False
    target.chmod(0o444)  # both names': changing one would change the other
    return True


def share_or_copy(source: Path, target: Path) -> None:
    """A copy by reflink, or a hard link that leaves the source as it is, or a copy; of a link what it leads to."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if reflink(source, target):
        return
    try:
        os.link(source.resolve(), target)
    except OSError:  # another file system, one without links, or a file of another user
        shutil.copyfile(source, target)


def shared(folder: Path) -> list[str]:
    """Names of the files directly in a folder that have other names too: changing one changes the others."""
    return sorted(path.name for path in folder.iterdir() if not path.is_symlink() and _is_shared(path))


def _is_shared(path: Path) -> bool:
    return path.is_file() and path.stat().st_nlink > 1
