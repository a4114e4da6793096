"""What every statement here has in common: how sure its intervals are, and how often what is there shall be seen."""

from __future__ import annotations

from typing import Any, Final

Array = Any  # numpy's, which is imported only where it is needed
Interval = tuple[float, float]

# Of a two-sided interval, unless several looks at more and more documents share the errors among them.
CONFIDENCE: Final = 0.95
# So many of the checkpoints that meet a gate shall pass it, and of the losses that matter be shown.
POWER: Final = 0.8
