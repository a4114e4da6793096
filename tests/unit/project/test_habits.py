"""What people who change the project go by: the forms, the locks, the changelog and the benchmarks."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

from quantpress import __version__
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
    named = [*secrets.ENDS, *(f"_{word}" for word in secrets.LAST_WORDS)]
    assert sorted(re.findall("[A-Z_]+", said)) == sorted(named)


def test_the_security_policy_names_tests_that_exist() -> None:
    named = re.findall(r"`([\w./]+/test_\w+\.py)(?:::(\w+))?`", (ROOT / "SECURITY.md").read_text())
    assert len(named) > 35
    for file, test in named:
        assert f"def {test}" in (ROOT / "tests" / "unit" / file).read_text(), (file, test)


def test_both_homes_of_the_version_agree() -> None:
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == __version__


def test_every_entry_of_the_changelog_has_its_kind_and_its_day() -> None:
    _, *versions = re.split("^## ", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert versions[0].startswith("Unreleased\n")
    for version in versions:
        _, *kinds = re.split("^### ", version, flags=re.MULTILINE)
        assert kinds
        for kind in kinds:
            name, *entries = re.split("^- ", kind, flags=re.MULTILINE)
            assert name.split()[0] in ("Added", "Changed", "Deprecated", "Removed", "Fixed", "Security")
            assert [entry for entry in entries if not re.search(r"\(\d{4}-\d\d-\d\d\)", entry)] == []


def test_help_lists_every_benchmark_with_what_it_says_of_itself() -> None:
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    listed = dict(line.split(maxsplit=1) for line in done.stdout.splitlines() if line.startswith("  bench-"))
    assert len(listed) >= 8
    for name, about in listed.items():
        text = (ROOT / "benchmarks" / f"{name.removeprefix('bench-').replace('-', '_')}.py").read_text()
        assert text.startswith(f'"""{about}\n')
        assert f"make {name} " in text


def test_benchmarks_begin_each_round_with_another_variant() -> None:
    timing = runpy.run_path(str(ROOT / "benchmarks" / "timing.py"))
    assert list(timing["in_turns"](("a", "b"), 2)) == [(0, "a"), (0, "b"), (1, "b"), (1, "a")]
    assert [variant for _, variant in timing["in_turns"]("abc", 2)] == list("abcbca")
    assert timing["median_ratio"]([2, 9, 8], [1, 3, 2]) == 3


@pytest.mark.parametrize("name", ["quantize", "build", "dev", "vllm-cpu", "vllm-cuda"])
def test_a_lock_holds_what_its_input_asks_for(name: str) -> None:
    locks = runpy.run_path(str(ROOT / "scripts" / "make_locks.py"))
    source = (ROOT / "requirements" / f"{name}.in").read_text()
    pins = {locks["canonical"](pin): pin for pin in locks["pins"](ROOT / "requirements" / f"{name}.lock")}
    for line in source.splitlines():
        if line and not line.startswith("#"):
            wanted = re.sub(r"\[.*?\]", "", line)
            pin = pins[locks["canonical"](wanted)]
            assert "==" not in wanted or pin.partition("==")[2] == wanted.partition("==")[2]
    lock = (ROOT / "requirements" / f"{name}.lock").read_text()
    assert len(re.findall(r"^\S+==\S+ \\\n +--hash=sha256:", lock, re.MULTILINE)) == len(pins)
    for pattern in locks["said"](source, "without"):
        assert not [one for one in pins if fnmatch(one, pattern)], pattern


def test_what_make_installs_is_held_to_its_lock() -> None:
    """But for torch's own libraries, which differ from build to build."""
    text = (ROOT / "Makefile").read_text()
    assert "LOCKED     := --require-hashes --no-deps -r\n" in text
    unlocked = [line for line in text.splitlines() if " $(PIP) " in line and "$(LOCKED)" not in line]
    assert [line.partition("$(PIP) ")[2] for line in unlocked] == [
        "--no-deps --only-binary torch --report $(1)/torch.json $(call torch_of,$(2))",
        "$(call torch_of,quantize)",
        "--no-deps --no-build-isolation -e .",
        "$(call torch_of,vllm-$*)",
    ]


def test_a_torch_that_no_lock_names_is_refused(tmp_path: Path) -> None:
    lock = ROOT / "requirements" / "quantize.lock"
    known = re.search(r"^torch==\S+ \\\n +--hash=sha256:(\S+)", lock.read_text(), re.MULTILINE)
    assert known
    for digest, code in ((known[1], 0), ("0" * 64, 4)):
        told = {"hashes": {"sha256": digest}} if digest == known[1] else {"hash": f"sha256={digest}"}
        file = {"url": "file:///torch-2.13.0-py3-none-any.whl", "archive_info": told}
        (tmp_path / "report.json").write_text(json.dumps({"install": [{"download_info": file}]}))
        script = str(ROOT / "scripts" / "require_locked.py")
        command = [sys.executable, script, str(lock), str(tmp_path / "report.json")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, digest in done.stderr) == (code, code == 4)
