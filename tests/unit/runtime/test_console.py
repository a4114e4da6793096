"""What a person sees while a command works, and when it fails."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from quantpress.errors import StageError
from quantpress.runtime import console


def test_a_step_is_never_silent_for_longer_than_ten_seconds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert console._HEARTBEAT_S <= 10
    monkeypatch.setattr(console, "_HEARTBEAT_S", 0.05)
    console.use()
    with console.step("waiting", source=lambda: "for an answer"):
        time.sleep(0.2)
    assert capsys.readouterr().err.count("… waiting  for an answer") >= 2


def test_a_log_that_is_not_there_is_not_named(tmp_path: Path) -> None:
    log = tmp_path / "tool.log"
    assert str(log) not in StageError("it failed", log=log).render()
    log.write_text("why")
    assert f"log:  {log}" in StageError("it failed", log=log).render()
