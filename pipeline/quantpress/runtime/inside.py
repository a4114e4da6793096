"""Files of folders that others made: what a name or a link leads to must lie in the folder, as tarfile's data filter
has it. A model could hand on a private key otherwise, as its licence."""

from __future__ import annotations

import os
from pathlib import Path

from quantpress.errors import InputError
from quantpress.runtime.cache import cache_folder

_HINT = "put the file itself there, or name the folder that holds it"


def inside(folder: Path, name: str) -> Path:
    """The file `name` of a folder. Raises InputError unless it lies in the folder when all links are followed.

    The snapshots of the hub's cache link to the blobs beside them. Folders that we made in our own cache are believed:
    some are links to a model that was looked at before.
    """
    path = folder / name
    real = _real(path)
    if not any(real.is_relative_to(root) for root in _roots(folder)):
        raise InputError(f"{path} leads out of its folder, to {real}", hint=_HINT)
    return path


def require_inside(folder: Path) -> None:
    """The same for all that a folder holds, less what is hidden, which nobody reads."""
    for parent, directories, files in os.walk(folder):
        directories[:] = [name for name in directories if not name.startswith(".")]
        for name in (*directories, *files):
            path = Path(parent, name)
            if path.is_symlink() and not name.startswith("."):
                inside(folder, path.relative_to(folder).as_posix())


def _roots(folder: Path) -> list[Path]:
    real = folder.resolve()
    roots = [real]
    if real.parent.name == "snapshots":
        roots.append(real.parents[1] / "blobs")
    if real.parent == (cache_folder() / "models").resolve():
        roots.append(Path(real.root))
    return roots


def _real(path: Path) -> Path:
    """Where a path leads to. Raises InputError for links that lead round in circles."""
    try:
        return path.resolve()
    except (OSError, RuntimeError, ValueError) as error:  # ValueError: a name that no file can have
        raise InputError(f"{path} leads nowhere: {error}", hint=_HINT) from error
