"""The index of several reports."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from quantpress.report.views import index

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.mark.parametrize("name", ["index.html", "index.md"])
def test_an_index_of_somebody_else_is_not_replaced(quantpress: Run, artifacts: Callable[..., Path], name: str) -> None:
    folder = artifacts(1, fresh=True)
    theirs = folder.parent / name
    theirs.write_text("my own page\n")
    done = quantpress("report", "--all", "--out", str(folder.parent))
    assert done.returncode == 2
    assert f"{name} was not written by quantpress" in done.stderr
    assert theirs.read_text() == "my own page\n"
    assert not (folder / "report.json").exists()


def test_our_own_index_is_replaced(tmp_path: Path) -> None:
    index.write(tmp_path, [])
    index.require_ours(tmp_path)
