"""The documents: links lead somewhere, files in them are valid, commands named in sentences exist."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from support import blocks

from quantpress.recipe.loading import load_recipe
from quantpress.sweep import file as sweep
from quantpress_evaluate.suite import load_suite
from quantpress_serve.workload import engines
from quantpress_serve.workload.workload import load_workload

ROOT = Path(__file__).parents[3]
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
NAMES = [str(path.relative_to(ROOT)) for path in DOCUMENTS]
OURS = [name for name in NAMES if "/notes/" not in name and not name.endswith("ci.md")]

READERS: dict[str, Callable[[str], object]] = {
    "suite": load_suite,
    "workload": load_workload,
    "engine": engines.load_file,
    "recipe": load_recipe,
    "sweep": lambda path: sweep.read(Path(path)),
}
KINDS = {"models": "sweep", "tasks": "suite", "input_len": "workload", "tensor_parallel_size": "engine"}


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def anchors(path: Path) -> set[str]:
    """GitHub's, of every heading."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", read(name)):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        found = (ROOT / name).parent / path if path else ROOT / name
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), target


@pytest.mark.parametrize("name", [name for name in OURS if blocks(ROOT / name, "yaml")])
def test_files_in_the_documents_are_valid(name: str, tmp_path: Path) -> None:
    for text in blocks(ROOT / name, "yaml"):
        content = yaml.safe_load(text)
        if set(content) == {"calibration"}:
            content |= {"extends": "gptq-w4a16", "name": "mine"}
        kind = next((kind for key, kind in KINDS.items() if key in content), "recipe")
        path = tmp_path / f"{kind}.yaml"
        path.write_text(yaml.safe_dump(content))
        READERS[kind](str(path))


@pytest.mark.parametrize("name", OURS)
def test_commands_in_sentences_exist(name: str) -> None:
    """`quantpress ...` and `make ...` between backticks: the command, and every option of it."""
    prose = re.sub(r"^```.*?^```", "", read(name), flags=re.DOTALL | re.MULTILINE)
    targets = re.findall(r"^([a-z0-9-]+):", read("Makefile"), re.MULTILINE)
    targets += [f"bench-{path.stem.replace('_', '-')}" for path in (ROOT / "benchmarks").glob("*.py")]
    helps = dict(re.findall(r"usage: quantpress ([a-z]+)(.*?)```", read("docs/reference/commands.md"), re.DOTALL))
    for code in re.findall(r"`([^`]+)`", prose.replace("\n", " ")):
        program, _, rest = code.partition(" ")
        first = rest.partition(" ")[0].rstrip(",")
        if program == "make" and first and not first.endswith("..."):
            assert first in targets, code
        elif program == "quantpress" and first.isalpha():
            assert first in helps, code
            assert not [option for option in re.findall(r"(?<!\S)--[a-z-]+", rest) if option not in helps[first]], code


def test_the_files_that_contributors_are_sent_to_exist() -> None:
    prose = re.sub(r"^```.*?^```", "", read("CONTRIBUTING.md"), flags=re.DOTALL | re.MULTILINE)
    named = [one for one in re.findall(r"`([^`]+)`", prose) if "/" in one and "<" not in one]
    assert len(named) > 15
    assert [one for one in named if not (ROOT / one).exists()] == []
