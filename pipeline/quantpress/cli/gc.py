"""`quantpress gc`: remove what killed runs left or kept, and scores that nothing refers to."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from quantpress.cli.options import Commands, add_flags, add_out
from quantpress.errors import InputError


@dataclass(frozen=True)
class Options:
    out: Path
    yes: bool


def add(commands: Commands) -> None:
    parser = commands.add_parser("gc", help="remove what killed runs left or kept, and scores that nothing refers to")
    parser.add_argument("--yes", action="store_true", help="remove without asking")
    add_out(parser)
    add_flags(parser)


def run(options: Options) -> None:
    from quantpress.artifact import upkeep
    from quantpress.cli.status import existing
    from quantpress.runtime.console import complain, show, warn

    found = upkeep.garbage(existing(options.out))
    names = [str(path) for path in found]
    if found and not options.yes:
        complain("\n".join(names))
        if not sys.stdin.isatty() or _answer(f"remove these {len(found)}? [y/N] ") != "y":
            raise InputError("nothing was removed", hint="quantpress gc --yes removes them without asking")
    removed = upkeep.remove(options.out, found)
    kept = [path for path in found if path not in removed]
    for path in kept:
        warn(f"{path} is kept: a run began to use it meanwhile")
    names = [str(path) for path in removed]
    show({"removed": names}, "\n".join(f"removed {name}" for name in names) or "nothing to remove")


def _answer(question: str) -> str:
    """What is typed. The question goes where messages go: what is printed may be a file of JSON."""
    print(question, end="", file=sys.stderr, flush=True)
    try:
        return input().strip().lower()
    except EOFError:
        return ""
