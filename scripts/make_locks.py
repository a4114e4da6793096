"""Renews requirements/NAME.lock from requirements/NAME.in: what a fresh environment would get today. Installs nothing.

python scripts/make_locks.py [--dry-run] NAME ...      # names in order: quantize comes before dev

The .in file names what is wanted. Comments in it say more: `beside: OTHER` leaves out what OTHER.lock holds and keeps
to its versions, `without: PATTERN ...` leaves out by name, `by: uv` resolves with uv, for a platform that need not be
this machine's. The comments at the head of a lock stay.
"""

from __future__ import annotations

import argparse
import difflib
import json
import re
import shutil
import subprocess
import sys
import tempfile
from fnmatch import fnmatch
from pathlib import Path

REQUIREMENTS = Path(__file__).parents[1] / "requirements"
UV = ["pip", "compile", "--quiet", "--no-header", "--no-annotate", "--upgrade"]
UV += ["--python-version", "3.11", "--python-platform", "x86_64-manylinux_2_28"]


def said(text: str, key: str) -> list[str]:
    """The words after `# key:` in a file of requirements."""
    found = re.search(rf"^# {key}: (.*)$", text, re.MULTILINE)
    return found[1].split() if found else []


def canonical(pin: str) -> str:
    """The name in `Name==version` as indexes compare names."""
    return re.sub(r"[-_.]+", "-", pin.partition("==")[0]).lower()


def pins(lock: Path) -> list[str]:
    return [line for line in lock.read_text().splitlines() if line and not line.startswith("#")]


def by_pip(source: Path, constraints: list[str]) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        subprocess.run([*command, "--report", str(report), "-r", str(source), *constraints], check=True)
        made = json.loads(report.read_text())["install"]
    found = [f"{one['metadata']['name']}=={one['metadata']['version'].partition('+')[0]}" for one in made]
    return sorted(found, key=str.casefold)


def by_uv(source: Path, constraints: list[str]) -> list[str]:
    if not (uv := shutil.which("uv")):
        sys.exit(f"error: uv, which {source.name} asks for, was not found\n  next: pip install uv")
    done = subprocess.run([uv, *UV, str(source), *constraints], check=True, stdout=subprocess.PIPE, text=True)
    return [line for line in done.stdout.splitlines() if "==" in line]


def resolved(name: str) -> list[str]:
    """The pins of a lock, as they come out today."""
    source = REQUIREMENTS / f"{name}.in"
    text = source.read_text()
    beside = [REQUIREMENTS / f"{other}.lock" for other in said(text, "beside")]
    constraints = [word for lock in beside for word in ("-c", str(lock))]
    found = (by_uv if said(text, "by") == ["uv"] else by_pip)(source, constraints)
    there = {canonical(pin) for lock in beside for pin in pins(lock)}
    unwanted = said(text, "without")
    return [
        pin
        for pin in found
        if canonical(pin) not in there and not any(fnmatch(canonical(pin), pattern) for pattern in unwanted)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="+", metavar="NAME", help="a file requirements/NAME.in")
    parser.add_argument("--dry-run", action="store_true", help="show what would change, and write nothing")
    args = parser.parse_args()
    if sys.version_info[:2] != (3, 11):
        sys.exit(f"error: {sys.executable} is not Python 3.11, which the locks are made for")
    for name in args.names:
        lock = REQUIREMENTS / f"{name}.lock"
        before = lock.read_text()
        head = [line for line in before.splitlines() if line.startswith("#")]
        after = "\n".join([*head, *resolved(name)]) + "\n"
        changed = list(difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=0))[2:]
        print("\n".join([f"{lock.name}: {'nothing' if not changed else 'this'} changes", *changed]), flush=True)
        if not args.dry_run:
            lock.write_text(after)


if __name__ == "__main__":
    main()
