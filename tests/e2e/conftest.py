"""The embedded model, fetched and converted once a session; the cache of the working folder is used if it is there."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CACHE = Path(os.environ.get("QUANTPRESS_CACHE") or ROOT / ".cache" / "quantpress").resolve()
Run = Callable[..., "subprocess.CompletedProcess[str]"]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "quantpress", *arguments]


def environ() -> dict[str, str]:
    return {**os.environ, "HF_HUB_OFFLINE": "1", "QUANTPRESS_CACHE": str(CACHE)}


@pytest.fixture(scope="session")
def real() -> Run:
    """Runs the quantpress command on real parts; fails the test, showing its output, on an unexpected exit code."""

    def run(*arguments: str, expect: int = 0, timeout: float = 900) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command(*arguments), env=environ(), capture_output=True, text=True, timeout=timeout, check=False
        )
        assert done.returncode == expect, f"{' '.join(arguments)}\n{done.stdout}\n{done.stderr}"
        return done

    return run


@pytest.fixture
def start() -> Callable[..., subprocess.Popen[bytes]]:
    """Starts the quantpress command and returns at once."""

    def run(*arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(command(*arguments), env=environ(), stderr=subprocess.DEVNULL)

    return run


@pytest.fixture(scope="session")
def embedded_model() -> Path:
    """The folder of the embedded model."""
    from quantpress import model
    from quantpress.console import Console

    os.environ["QUANTPRESS_CACHE"] = str(CACHE)
    return model.resolve(model.EMBEDDED, Console()).path
