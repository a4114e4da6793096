"""What a disk must allow before work starts."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from quantpress.errors import CapabilityError


def require_space(folder: Path, needed: int) -> None:
    """Raises CapabilityError if the file system of `folder` has fewer than `needed` bytes free."""
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise CapabilityError(
            f"{free / 1e9:.2f} GB free at {existing}, {needed / 1e9:.2f} GB needed",
            hint="free some space, or write elsewhere with --out",
        )


def require_writable(folder: Path, hint: str = "choose another one with --out") -> None:
    """Raises CapabilityError if nothing can be created in `folder` (or in its nearest existing parent)."""
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise CapabilityError(f"{existing} is not a writable folder", hint=hint)
