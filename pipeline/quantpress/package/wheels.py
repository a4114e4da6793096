"""The wheels of a bundle: everything that its locks name, each with its digest."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from quantpress.errors import CapabilityError
from quantpress.runtime import atomic, console, digests, process

_PIN = re.compile(r"^[^#\s]\S*==[^\s;]+", re.MULTILINE)
_TORCH = re.compile(r"^torch==\S+( \\\n +--hash=\S+)+\n", re.MULTILINE)
_VERSIONS, _REST = ".versions", ".rest"  # beside a lock, while its wheels are collected


def collect(folder: Path, locks: list[Path]) -> None:
    """Collects the wheels of these locks into `folder`/wheels, as `make setup` installs them.

    A wheel that was built here of a source gets its digest added to its lock, so the locks are the bundle's own.
    Raises CapabilityError if they cannot be collected, or torch is none of the builds that a lock names.
    """
    wanted = [what for lock in locks for what in _wanted(lock, folder)]
    log = folder / "wheels.log"
    for number, what in enumerate(wanted, start=1):
        command = [sys.executable, "-m", "pip", "wheel", "--progress-bar", "off", "-w", str(folder / "wheels"), *what]
        with console.step(f"collecting wheels ({number} of {len(wanted)})", log):
            code = process.run(command, log)
        if code != 0:
            raise CapabilityError(
                f"the wheels cannot be collected: {process.last_error(log)}", hint="connect to a package index"
            )
    log.unlink()
    found = write_digests(folder)
    for lock in locks:
        for suffix in (_VERSIONS, _REST):
            lock.with_suffix(suffix).unlink(missing_ok=True)
        text = lock.read_text(encoding="utf-8")
        _require_torch_of(text, found)
        atomic.write_text(lock, with_built(text, found))


def _wanted(lock: Path, folder: Path) -> list[list[str]]:
    """What `pip wheel` is asked for, in turns: as the Makefile has it, torch first and what it needs last.

    The last one's constraints are the lock's versions without digests: with them pip would ask for those of everything
    that torch's build needs.
    """
    text = lock.read_text(encoding="utf-8")
    pins: list[str] = _PIN.findall(text)
    rest, versions = lock.with_suffix(_REST), lock.with_suffix(_VERSIONS)
    atomic.write_text(rest, _TORCH.sub("", text))
    atomic.write_text(versions, "\n".join(pins))
    locked = ["--require-hashes", "--no-deps", "-r", str(rest)]
    torch = [pin for pin in pins if pin.startswith("torch==")]
    if not torch:
        return [locked]
    return [["--no-deps", *torch], locked, ["-c", str(versions), "-f", str(folder / "wheels"), *torch]]


def _require_torch_of(lock: str, wheels: dict[Path, str]) -> None:
    others = [path.name for path, digest in wheels.items() if path.name.startswith("torch-") and digest not in lock]
    if others and _TORCH.search(lock):
        raise CapabilityError(
            f"the lock does not name the digest of {others[0]}", hint="find out where your package index has it from"
        )


def with_built(lock: str, wheels: dict[Path, str]) -> str:
    """A lock with the digests of those wheels, by file, of whose versions it names other files alone."""
    for path, digest in wheels.items():
        if digest not in lock:
            name, version = (re.escape(part) for part in path.name.split("-")[:2])
            name = name.replace("_", "[-_.]")
            lock = re.sub(
                rf"^({name}=={version} )\\$",
                rf"\1\\\n    --hash=sha256:{digest} \\",
                lock,
                flags=re.MULTILINE | re.IGNORECASE,
            )
    return lock


def write_digests(folder: Path) -> dict[Path, str]:
    """Writes wheels.sha256, by which run.sh checks the wheels before it installs them, and returns what it says."""
    found = digests.sha256_files(sorted((folder / "wheels").iterdir()))
    text = "".join(f"{digest}  wheels/{path.name}\n" for path, digest in found.items())
    atomic.write_text(folder / "wheels.sha256", text)
    return found
