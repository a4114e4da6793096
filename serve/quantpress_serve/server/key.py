"""The key that a server of someone else's may ask for: read from the environment, kept out of everything else."""

from __future__ import annotations

import os
import re

from quantpress.errors import InputError
from quantpress.runtime import secrets

DEFAULT = "OPENAI_API_KEY"
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SENDABLE = re.compile(r"[\x21-\x7e]+")  # what an HTTP header takes without quoting


def read_key(variable: str | None) -> str | None:
    """The value of the variable, or of OPENAI_API_KEY where none is named; None if nobody set that one.

    From then on it is struck out of logs. Raises InputError for a variable that is not there, or no key.
    """
    if variable is not None and not _VARIABLE.fullmatch(variable):
        # Not repeated: it may be the key itself.
        raise InputError(
            "--api-key-env takes the name of an environment variable (letters, digits, _), not the key",
            hint=f"export MY_KEY=..., then --api-key-env MY_KEY; without the option it is {DEFAULT}",
        )
    key = os.environ.get(variable or DEFAULT)
    if not key:
        if variable is None:
            return None
        raise InputError(
            f"--api-key-env: the environment has no variable {_named(variable)}, or it is empty",
            hint="export it, or name the one that holds the key",
        )
    if not _SENDABLE.fullmatch(key):
        raise InputError(
            f"the value of {variable or DEFAULT} is no key: it holds spaces, line breaks or letters beyond ASCII",
            hint="export it again without them",
        )
    secrets.remember(key)
    return key


def _named(variable: str) -> str:
    """The name, unless it looks like a key that was given in its place."""
    return variable if variable.isupper() and len(variable) <= 60 else "of that name"
