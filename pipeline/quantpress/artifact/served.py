"""What an engine was found to compute, beside what was scored: kept in throughput.json, repeated in accuracy.json."""

from __future__ import annotations

from pydantic import Field

from quantpress.runtime.records import Record

# The verdicts on an engine.
DIFFERS, SAME = "not as scored", "as scored"


class Side(Record):
    """Mean log-likelihoods of a fixed text, in nats a token, as scored and as served.

    `difference` is served minus scored with its `interval`, `per_token` the mean of the absolute differences; None
    where one is not finite.
    """

    tokens: int
    scored: float | None
    served: float | None
    difference: float | None
    per_token: float | None
    interval: tuple[float, float] | None


class Served(Record):
    """Whether the engine computes what was scored: `verdict` is SAME, DIFFERS, or None with its `reason`."""

    verdict: str | None
    reason: str | None
    bound: float | None = None
    confidence: float | None = None
    tokens: int | None = None
    sides: dict[str, Side] = Field(default_factory=dict)
    cause: str | None
