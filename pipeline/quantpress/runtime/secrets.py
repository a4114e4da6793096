"""What the environment keeps secret must not be written into a log."""

from __future__ import annotations

import os
import re
from pathlib import Path

_SECRET = re.compile(r"(TOKEN|API_KEY|ACCESS_KEY|SECRET|PASSWORD)$")


def secrets() -> list[str]:
    """Values of environment variables that are named like secrets."""
    names = [name for name in os.environ if _SECRET.search(name.upper())]
    return [value for name in names if len(value := os.environ[name]) >= 8]


def scrub(path: Path) -> None:
    """Replaces what a tool may have printed of the environment's secrets; a log without one is left as it is."""
    text = path.read_bytes()
    clean = text
    for secret in secrets():
        clean = clean.replace(os.fsencode(secret), b"***")
    if clean != text:
        path.write_bytes(clean)
