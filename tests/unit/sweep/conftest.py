"""A sweep's file, written from its text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

TEXT = """name: night
description: Two by two.
models: [embedded, org/name]
recipes: [rtn-w4a16, w8a8-dynamic]
suites: [smoke]
workloads: [glance, chat]
"""


@pytest.fixture
def written(tmp_path: Path) -> Callable[[str], Path]:
    """Writes a sweep: the usual one with something behind it, or the whole text where it begins with `name`."""

    def write(text: str) -> Path:
        path = tmp_path / "sweep.yaml"
        path.write_text(text if text.startswith("name") else TEXT + text)
        return path

    return write
