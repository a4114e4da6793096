"""What a disk must allow before work starts."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from quantpress.errors import CapabilityError


def require_space(folder: Path, needed: int) -> None:
    """Raises CapabilityError if the file system of `folder` has fewer than `needed` bytes free."""
    free = free_space(folder)
    if free < needed:
        raise CapabilityError(
            f"{free / 1e9:.2f} GB free at {_existing(folder)}, {needed / 1e9:.2f} GB needed",
            hint="free some space, or write elsewhere with --out",
        )


def free_space(folder: Path) -> int:
    """Free bytes on the file system of `folder`, which need not exist yet."""
    return shutil.disk_usage(_existing(folder)).free


def _existing(folder: Path) -> Path:
    """The folder, or its nearest parent that exists."""
    return next(parent for parent in (folder, *folder.parents) if parent.exists())


def require_writable(folder: Path, hint: str = "choose another one with --out") -> None:
    """Raises CapabilityError if nothing can be created in `folder` (or in its nearest existing parent)."""
    existing = _existing(folder)
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise CapabilityError(f"{existing} is not a writable folder", hint=hint)
