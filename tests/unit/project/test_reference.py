"""docs/reference/recipes.md says what the schema, the table of hardware and the shipped recipes say."""

import subprocess
import sys
from pathlib import Path

from quantpress.language import shipped

ROOT = Path(__file__).parents[3]


def test_the_generated_parts_are_up_to_date() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "make_reference.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_readme_names_every_shipped_recipe() -> None:
    text = (ROOT / "README.md").read_text()
    assert not [name for name in shipped.names("recipes") if f"| `{name}` |" not in text]
