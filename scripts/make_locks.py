"""Renews requirements/NAME.lock from requirements/NAME.in: what a fresh environment would get today. Installs nothing.

python scripts/make_locks.py [--dry-run] [--keep] NAME ...      # names in order: quantize comes before build and dev

The .in file names what is wanted. Comments in it say more: `beside: OTHER ...` leaves out what OTHER.lock holds and
keeps to its versions, `without: PATTERN ...` leaves out by name, `by: uv` resolves with uv, for a platform that need
not be this machine's, `digest: NAME SHA256` takes a file of that name which no index lists. The comments at the head of
a lock stay. Each version comes with the digests of its files, which uv asks the index for: pip installs nothing else.
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
PIN = re.compile(r"^[^#\s]\S*==[^\s;]+", re.MULTILINE)


def said(text: str, key: str) -> list[str]:
    """The words after `# key:` in a file of requirements."""
    found = re.search(rf"^# {key}: (.*)$", text, re.MULTILINE)
    return found[1].split() if found else []


def canonical(pin: str) -> str:
    """The name in `Name==version` as indexes compare names."""
    return re.sub(r"[-_.]+", "-", pin.partition("==")[0]).lower()


def pins(lock: Path) -> list[str]:
    """Every `Name==version` of a lock, without its digests."""
    return PIN.findall(lock.read_text())


def by_pip(source: Path, constraints: list[str]) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        subprocess.run([*command, "--report", str(report), "-r", str(source), *constraints], check=True)
        made = json.loads(report.read_text())["install"]
    found = [f"{one['metadata']['name']}=={one['metadata']['version'].partition('+')[0]}" for one in made]
    return sorted(found, key=str.casefold)


def uv(source: Path, *options: str) -> str:
    if not (found := shutil.which("uv")):
        sys.exit("error: uv was not found\n  next: pip install uv")
    return subprocess.run([found, *UV, str(source), *options], check=True, stdout=subprocess.PIPE, text=True).stdout


def by_uv(source: Path, constraints: list[str]) -> list[str]:
    return PIN.findall(uv(source, *constraints))


def resolved(name: str) -> list[str]:
    """The pins of a lock, as they come out today."""
    source = REQUIREMENTS / f"{name}.in"
    text = source.read_text()
    there = [pin for other in said(text, "beside") for pin in pins(REQUIREMENTS / f"{other}.lock")]
    with tempfile.TemporaryDirectory() as folder:
        versions = Path(folder) / "versions.txt"  # with digests, pip would ask for everybody's
        versions.write_text("\n".join(there))
        found = (by_uv if said(text, "by") == ["uv"] else by_pip)(source, ["-c", str(versions)])
    unwanted = [*map(canonical, there), *said(text, "without")]
    return [pin for pin in found if not any(fnmatch(canonical(pin), pattern) for pattern in unwanted)]


def with_digests(wanted: list[str], name: str) -> str:
    """The same, each with the digests of its files, as pip reads them."""
    with tempfile.TemporaryDirectory() as folder:
        versions = Path(folder) / "versions.txt"
        versions.write_text("\n".join(wanted))
        found = uv(versions, "--no-deps", "--generate-hashes")
    if digest := said((REQUIREMENTS / f"{name}.in").read_text(), "digest"):
        found = re.sub(rf"^({digest[0]}==\S+ )", rf"\1\\\n    --hash=sha256:{digest[1]} ", found, flags=re.MULTILINE)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="+", metavar="NAME", help="a file requirements/NAME.in")
    parser.add_argument("--dry-run", action="store_true", help="show what would change, and write nothing")
    parser.add_argument("--keep", action="store_true", help="keep the versions, and renew their digests alone")
    args = parser.parse_args()
    if sys.version_info[:2] != (3, 11):
        sys.exit(f"error: {sys.executable} is not Python 3.11, which the locks are made for")
    for name in args.names:
        lock = REQUIREMENTS / f"{name}.lock"
        before = lock.read_text() if lock.is_file() else ""
        head = [f"{line}\n" for line in before.splitlines() if line.startswith("#")]
        after = pins(lock) if args.keep else resolved(name)
        changed = list(difflib.unified_diff(pins(lock) if before else [], after, lineterm="", n=0))[2:]
        print("\n".join([f"{lock.name}: {'no version' if not changed else 'this'} changes", *changed]), flush=True)
        if not args.dry_run:
            lock.write_text("".join(head) + with_digests(after, name))


if __name__ == "__main__":
    main()
