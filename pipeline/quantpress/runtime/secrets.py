"""What the environment keeps secret must not be written into a log."""

from __future__ import annotations

import os
import re
from pathlib import Path

_SECRET = re.compile(r"(TOKEN|API_KEY|ACCESS_KEY|SECRET|PASSWORD)$")


_told: set[str] = set()  # secrets that someone named as such, however they are called and however short they are


def remember(secret: str) -> None:
    """From here on this is a secret, whatever the name of the variable that holds it."""
    _told.add(secret)


def secrets() -> list[str]:
    """Values of environment variables that are named like secrets, and what was named as one; the longest first."""
    names = [name for name in os.environ if _SECRET.search(name.upper())]
    found = {value for name in names if len(value := os.environ[name]) >= 8}
    return sorted(found | _told, key=len, reverse=True)


def without_secrets(text: str) -> str:
    """Text that someone else wrote, as it may be shown or kept."""
    for secret in secrets():
        text = text.replace(secret, "***")
    return text


def scrub(path: Path) -> None:
    """Replaces what a tool may have printed of the environment's secrets; a log without one is left as it is."""
    text = path.read_bytes()
    clean = text
    for secret in secrets():
        clean = clean.replace(os.fsencode(secret), b"***")
    if clean != text:
        path.write_bytes(clean)
