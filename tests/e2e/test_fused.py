"""The table of what vLLM runs as one layer is what the installed vLLM says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e
SCRIPT = Path(__file__).parents[2] / "scripts" / "make_fused_table.py"


def test_the_table_is_what_the_installed_vllm_says(real_environment: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--check"],
        env=os.environ | real_environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{SCRIPT.name} makes it anew:\n{done.stdout}\n{done.stderr}"
