"""Reading results in which anything may be missing.

A result may come from an older quantpress, and not every figure applies to every stage: what is missing becomes None
here, and the views name it.
"""

from __future__ import annotations

import math
from typing import Any

Data = dict[str, Any]


def get(value: Any, *keys: str, default: Any = None) -> Any:
    """The value below nested mappings, or the default where one of the keys is missing or None."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return default if value is None else value


def number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
