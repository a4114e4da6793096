"""The contracts between rooms fail when they are broken."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
BROKEN = {
    "an arrow up": ("pipeline/quantpress/plan/sizes.py", "from quantpress.cli import options", "arrows between rooms"),
    "weight": ("pipeline/quantpress/plan/sizes.py", "import torch", "only workers"),
    "a server that knows the bench": (
        "serve/quantpress_serve/server/memory.py",
        "from quantpress_serve.bench import stage",
        "inside serve",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_contract_that_is_broken_is_named(case: str, tmp_path: Path) -> None:
    name, line, contract = BROKEN[case]
    for folder in ("pipeline", "serve", "evaluate"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / name).write_text(f"{line}\n{(tmp_path / name).read_text().replace('from __future__', '# ')}")
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-logo", "--no-cache"]
    paths = ":".join(str(tmp_path / folder) for folder in ("pipeline", "serve", "evaluate"))
    done = subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": paths}, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    broken = [row for row in done.stdout.splitlines() if "BROKEN" in row]
    assert [row for row in broken if row.startswith(contract)], done.stdout
