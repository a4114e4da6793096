"""A figure in words, for facts and views alike."""

from __future__ import annotations

from quantpress.report.facts.fields import Data

NONE = "not measured"


def interval(figure: Data | None, form: str = "{:.3f}") -> str:
    """A figure and its 95% interval."""
    if not figure or figure["value"] is None:
        return "none" if figure else NONE
    text = form.format(figure["value"])
    if figure["interval"]:
        text += f" ({form.format(figure['interval'][0])} to {form.format(figure['interval'][1])})"
    return text


def in_bytes(count: float) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
