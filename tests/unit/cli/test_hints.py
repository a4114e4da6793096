"""What errors say to do next can be done: the options that they name exist, in that very command."""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from quantpress.cli.main import VERBS, build_parser, for_command, option_names

ROOT = Path(__file__).parents[3]
ROOMS = ("pipeline/quantpress", "serve/quantpress_serve", "evaluate/quantpress_evaluate")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*(?!\w)")  # lm-eval's have underscores
OF_VLLM = {"--max-model-len"}
SAID_OF_US = {"reads", "cannot"}
COMMAND = re.compile(r"\bquantpress ([a-z]+)((?: [^;,`]*)?)")


def _options() -> dict[str, set[str]]:
    """By command."""
    (commands,) = (action for action in build_parser()._actions if isinstance(action, argparse._SubParsersAction))
    return {verb: option_names(parser) for verb, parser in commands.choices.items()}


OPTIONS = _options()


def _hints() -> Iterator[tuple[Path, int, str]]:
    """Every text in the source that becomes the hint of an error, with its place."""
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                for value in _values(node):
                    yield path, value.lineno, _text(value)


def _values(node: ast.AST) -> list[ast.expr]:
    if isinstance(node, ast.keyword) and node.arg == "hint":
        return [node.value]
    if isinstance(node, ast.Assign) and any(isinstance(at, ast.Name) and "HINT" in at.id for at in node.targets):
        return [node.value]
    if isinstance(node, ast.FunctionDef):
        defaults = zip(reversed(node.args.args), reversed(node.args.defaults), strict=False)
        return [default for argument, default in defaults if argument.arg == "hint"]
    return []


def _text(value: ast.expr) -> str:
    """What is known of it without running it; a place that is filled in is `X`."""
    if isinstance(value, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "X" for part in value.values)
    return " ".join(
        one.value for one in ast.walk(value) if isinstance(one, ast.Constant) and isinstance(one.value, str)
    )


def test_hints_name_options_that_there_are() -> None:
    every = set.union(*OPTIONS.values())
    wrong = []
    for path, line, text in _hints():
        verb = path.stem if path.parent.name == "cli" and path.stem in VERBS else None
        for named, rest in COMMAND.findall(text):
            if named not in SAID_OF_US and not set(OPTION.findall(rest)) <= OPTIONS.get(named, set()):
                wrong.append(f"{path.name}:{line}: quantpress {named}{rest}")
            if named not in OPTIONS and named not in SAID_OF_US:
                wrong.append(f"{path.name}:{line}: quantpress {named}")
        alone = set(OPTION.findall(COMMAND.sub("", text))) - OF_VLLM
        if not alone <= (OPTIONS[verb] if verb else every):
            wrong.append(f"{path.name}:{line}: {text}")
    assert wrong == []


def test_there_are_hints_to_look_at() -> None:
    assert sum(1 for _, _, text in _hints() if "--" in text) > 20


@pytest.mark.parametrize(
    ("hint", "verb", "left"),
    [
        (
            "free some space, or write elsewhere with --out",
            "quantize",
            "free some space, or write elsewhere with --out",
        ),
        ("free some space, or write elsewhere with --out", "compare", "free some space"),
        ("choose another one with --out", "compare", None),
        ("read it; if you trust it, add --trust-remote-code; or not", "compare", "read it; or not"),
        ("quantpress gc --yes removes them", "compare", "quantpress gc --yes removes them"),
        ("start it with --max-model-len; or with --workload", "compare", "start it with --max-model-len"),
        ("name it with --public-key", "verify", "name it with --public-key"),
    ],
)
def test_a_hint_of_a_room_below_fits_the_command(hint: str, verb: str, left: str | None) -> None:
    dests = {name.lstrip("-").replace("-", "_") for name in OPTIONS[verb]}
    assert for_command(hint, dests) == left
