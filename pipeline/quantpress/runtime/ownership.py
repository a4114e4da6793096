"""Whose files these are: only what carries our own mark is ever replaced or removed, and of it only what we wrote.

A folder of ours holds a file that lists what else is in it (manifest.json, bundle.json, score.json), as pip's RECORD
does; each room knows its own. Whatever such a list does not name is a stranger, and a folder without one is foreign.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from quantpress.errors import InputError, listed
from quantpress.runtime.foreign import read_json

# What in a folder is not ours, by relative name; the room that makes such folders knows.
Strangers = Callable[[Path], list[str]]


def entries(folder: Path) -> list[str]:
    """Relative names of all that is below a folder, sorted, less the directories. A link is an entry: none is followed.

    Raises OSError for what cannot be listed.
    """
    found = []
    for parent, directories, files in os.walk(folder, onerror=_raise):
        links = [name for name in directories if os.path.islink(os.path.join(parent, name))]  # noqa: PTH114, PTH118
        found += [Path(parent, name).relative_to(folder).as_posix() for name in (*files, *links)]
    return sorted(found)


def _raise(error: OSError) -> None:
    raise error


def is_regular(path: Path) -> bool:
    """Whether a file is one itself: no link, no pipe, no device."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def is_folder(path: Path) -> bool:
    """Whether a folder is one itself: no link to one."""
    return path.is_dir() and not path.is_symlink()


def folders_in(folder: Path) -> list[Path]:
    """The folders in one, sorted, without links; none where it is no folder."""
    return [path for path in sorted(folder.iterdir()) if is_folder(path)] if folder.is_dir() else []


def mark_in(path: Path) -> dict[str, Any]:
    """The JSON object in a mark; empty where it is missing, a link, or damaged."""
    try:
        found = read_json(path) if is_regular(path) else None
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def marked_files(path: Path) -> set[str] | None:
    """The names that a mark lists under `files`; None where it is no mark."""
    found = mark_in(path).get("files")
    return set(found) if isinstance(found, dict) else None


def strangers_beside(folder: Path, mark: str, more: tuple[str, ...] = ()) -> list[str]:
    """What is in a folder beside its mark, the files that the mark lists, and `more`; everything, where it has none."""
    names = entries(folder)
    known = marked_files(folder / mark)
    return names if known is None else [name for name in names if name not in {mark, *more} | known]


def require_ours(folder: Path, strangers: Strangers, hint: str) -> None:
    """Raises InputError unless `folder` may be replaced: it is not there, or holds nothing but what we wrote."""
    if not os.path.lexists(folder):
        return
    if not is_folder(folder):
        raise InputError(f"{folder} is {'a link' if folder.is_symlink() else 'no folder'}", hint=hint)
    if found := strangers(folder):
        raise InputError(
            f"{folder} would be replaced, and holds what quantpress did not write: {listed(found)}", hint=hint
        )


def is_below(path: Path, root: Path) -> bool:
    """Whether `path` lies below `root` also when the links on the way to it are followed."""
    return path.parent.resolve().is_relative_to(root.resolve())


def remove(path: Path) -> None:
    """Removes a folder with all that is in it, or a file; of a link the link alone."""
    if is_folder(path):
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
