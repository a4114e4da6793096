"""What people who change the project go by: the forms, the locks, the changelog and the benchmarks."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from quantpress.runtime import secrets

ROOT = Path(__file__).parents[3]
FORMS = ROOT / ".github" / "ISSUE_TEMPLATE"
SCHEMAS = {"bug.yml": "forms", "feature.yml": "forms", "config.yml": "config"}


@pytest.mark.parametrize("name", SCHEMAS)
def test_issue_forms_obey_the_published_schema(name: str) -> None:
    schema = f"vendor.github-issue-{SCHEMAS[name]}"
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, str(FORMS / name)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_security_policy_names_the_variables_that_are_scrubbed() -> None:
    said = (ROOT / "SECURITY.md").read_text().partition("whose names end in ")[2].partition(", if")[0]
    assert sorted(re.findall("[A-Z_]+", said)) == sorted(re.findall("[A-Z_]+", secrets._SECRET.pattern))
