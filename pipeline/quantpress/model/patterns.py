"""Names of layers: compressed-tensors' rule for targets and ignore, in bounded time. Classes are Layers.matching's."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

from quantpress.errors import InputError
from quantpress.runtime.time_limit import time_limit

_SECONDS = 2.0  # for one pattern against every name of a model; 10,000 names take 0.02 s


def matching(pattern: str, names: Iterable[str]) -> list[str]:
    """Those of `names` that a target or ignore matches by name or as re:PATTERN.

    Raises InputError for a pattern that would take for ever: llmcompressor and vLLM would hang on it too.
    """
    if not pattern.startswith("re:"):
        return [name for name in names if name == pattern]
    compiled = _compiled(pattern)
    try:
        with time_limit(_SECONDS):
            return [name for name in names if compiled.match(name)]
    except TimeoutError as error:
        raise InputError(
            f"the pattern {pattern[:200]!r} takes more than {_SECONDS:.0f} s to match this model's layer names",
            hint="write it without nested repeats such as (a+)+",
        ) from error


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern.removeprefix("re:"))
