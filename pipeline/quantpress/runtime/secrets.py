"""What is secret must not leave this program: struck out of all that it shows, logs and keeps, by value and by form.

By value: what the environment holds under names of secrets, passwords in its URLs (proxies, package indexes), and what
someone named as secret. By form: passwords in any URL, keys of known makers, private keys.
"""

from __future__ import annotations

import os
import re
import urllib.parse
from pathlib import Path
from typing import Any

STRUCK = "***"
ENDS = ("KEY", "TOKEN", "SECRET", "PASSWORD", "PASSWD", "PASSPHRASE", "CREDENTIALS")  # of a variable's name
LAST_WORDS = ("PASS", "PWD", "PAT", "AUTH")  # of one that has several words
_SHORTEST = 8  # characters; shorter values are words that stand everywhere
_SHORTEST_IN_URL = 6

# user:password@ or a long user name alone, as tokens are given, after a scheme.
_IN_URL = re.compile(r"(?<=://)(?P<user>[^\s/?#@:'\"]*)(?::(?P<password>[^\s/?#@'\"]+))?@")
_LONG_USER = 16
_FORMS = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"hf_[A-Za-z0-9]{30,}|gh[opsur]_[A-Za-z0-9]{30,}|github_pat_\w{22,}|glpat-[\w-]{20,}|sk-[\w-]{20,}"
    r"|xox[abeoprs]-[\w-]{10,}|AKIA[0-9A-Z]{16}|AIza[\w-]{35}|pypi-[\w-]{40,}"
    r")"
)
_HEADER = re.compile(r"(?i)\b(bearer|basic)\s+(?=[\w.~+/=-]*\d)[\w.~+/=-]{16,}")
_PRIVATE_KEY = re.compile(r"-----BEGIN ([A-Z ]*PRIVATE KEY)-----.*?(-----END \1-----|\Z)", re.DOTALL)


_told: set[str] = set()  # secrets that someone named as such, however they are called and however short they are


def remember(secret: str) -> None:
    """From here on this is a secret, whatever the name of the variable that holds it."""
    _told.add(secret)


def is_named_like_one(variable: str) -> bool:
    """Whether an environment variable of this name holds a secret."""
    name = variable.upper()
    return name.endswith((*ENDS, *(f"_{word}" for word in LAST_WORDS)))


def secrets() -> list[str]:
    """The values that are secret in this environment, and what was named as secret; the longest first."""
    found = set(_told)
    for name, value in os.environ.items():
        if is_named_like_one(name) and len(value) >= _SHORTEST:
            found.add(value)
        found |= _in_urls(value)
    return sorted(found, key=len, reverse=True)


def _in_urls(value: str) -> set[str]:
    if "://" not in value:
        return set()
    parts = {match["password"] or match["user"] for match in _IN_URL.finditer(value) if _is_secret(match)}
    written = parts | {urllib.parse.unquote(part) for part in parts}
    return {part for part in written if len(part) >= _SHORTEST_IN_URL}


def _is_secret(found: re.Match[str]) -> bool:
    return found["password"] is not None or len(found["user"]) >= _LONG_USER


def without_secrets(text: str) -> str:
    """The text as it may be shown or kept."""
    return _struck(text, secrets())


def _struck(text: str, known: list[str]) -> str:
    for secret in known:
        text = text.replace(secret, STRUCK)
    if "://" in text:
        text = _IN_URL.sub(lambda found: f"{STRUCK}@" if _is_secret(found) else found[0], text)
    text = _PRIVATE_KEY.sub(STRUCK, text) if "PRIVATE KEY-----" in text else text
    return _HEADER.sub(rf"\1 {STRUCK}", _FORMS.sub(STRUCK, text))


def cleaned(value: Any) -> Any:
    """Data as it may be shown or kept: every text in it without secrets."""
    return _cleaned(value, secrets())


def _cleaned(value: Any, known: list[str]) -> Any:
    if isinstance(value, str):
        return _struck(value, known)
    if isinstance(value, dict):
        return {key: _cleaned(item, known) for key, item in value.items()}
    return [_cleaned(item, known) for item in value] if isinstance(value, list | tuple) else value


def scrub(path: Path) -> None:
    """Strikes out what a tool may have printed of secrets; a log without one is left as it is."""
    text = path.read_bytes().decode("utf-8", "surrogateescape")
    clean = without_secrets(text)
    if clean != text:
        path.write_bytes(clean.encode("utf-8", "surrogateescape"))
