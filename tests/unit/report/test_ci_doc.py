"""docs/how-to/ci.md: its jobs obey the services' published schemas, its commands the command line."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import blocks

from quantpress.cli import main as cli
from quantpress.report.facts import collect

DOC = Path(__file__).parents[3] / "docs" / "how-to" / "ci.md"
TEXT = DOC.read_text(encoding="utf-8")
FILES = (DOC.parent.parent / "reference" / "files.md").read_text(encoding="utf-8")
JOBS = blocks(DOC, "yaml")
SCHEMAS = ("vendor.github-workflows", "vendor.gitlab-ci")


def check(schema: str, text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "job.yml").write_text(text)
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema]
    if schema == "vendor.gitlab-ci":
        command += ["--data-transform", "gitlab-ci"]
    return subprocess.run([*command, str(folder / "job.yml")], capture_output=True, text=True, check=False)


@pytest.mark.skipif(
    not find_spec("check_jsonschema"), reason="check-jsonschema is not installed (requirements/dev.lock)"
)
@pytest.mark.parametrize(("schema", "job"), list(zip(SCHEMAS, JOBS, strict=True)), ids=SCHEMAS)
def test_jobs_obey_the_published_schemas(schema: str, job: str, tmp_path: Path) -> None:
    found = check(schema, job, tmp_path)
    assert found.returncode == 0, found.stdout
    broken = job.replace("runs-on:", "runs_on:").replace("stage: gate", "stage: {}")
    assert check(schema, broken, tmp_path).returncode == 1


def commands() -> Iterator[list[str]]:
    for line in TEXT.splitlines():
        if ".venv/bin/quantpress " in line:
            words = shlex.split(line.partition(".venv/bin/quantpress ")[2])
            yield words[: next((number for number, word in enumerate(words) if word in (">", "||", "|")), None)]


def test_commands_are_those_of_the_command_line() -> None:
    found = list(commands())
    assert len(found) == 6
    for words in found:
        cli.build_parser().parse_args(words)


def test_shell_scripts_parse() -> None:
    github, gitlab = (yaml.safe_load(job) for job in JOBS)
    steps = [step["run"] for step in github["jobs"]["quantize"]["steps"] if "run" in step]
    lines = [job["script"] for job in gitlab.values() if isinstance(job, dict)]
    for script in [*steps, *("\n".join(one) for one in lines)]:
        text = re.sub(r"\$\{\{.*?\}\}", "1", script)
        assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0, script


def test_fields_are_those_of_the_report(artifacts: Callable[..., Path], tmp_path: Path) -> None:
    collect.collect(artifacts(1), None).save(tmp_path / "report.json")
    data = json.loads((tmp_path / "report.json").read_text())
    table = FILES.partition("| field | meaning |")[2].partition("\n\n")[0]
    names = [name for row in table.splitlines()[2:] for name in re.findall(r"`([\w.]+)`", row.split("|")[1])]
    assert len(names) >= 10
    for name in names:
        value: Any = data
        for key in name.split("."):
            value = value[0] if isinstance(value, list) else value
            assert key in value, name
            value = value[key]


def test_exit_codes_are_those_of_the_help() -> None:
    rows = re.findall(r"^\| (\d+) \|", TEXT, re.MULTILINE)
    assert rows == re.findall(r"(?:^|, |\n)(\d+) (?=[a-z])", cli._EPILOG.removeprefix("exit codes: "))
