"""A figure in words."""

from __future__ import annotations

from quantpress.report.facts.data import Figure

NONE = "not measured"


def interval(figure: Figure | None, form: str = "{:.3f}") -> str:
    """A figure and its 95% interval."""
    if figure is None or figure.value is None:
        return "none" if figure else NONE
    text = form.format(figure.value)
    if figure.interval:
        text += f" ({form.format(figure.interval[0])} to {form.format(figure.interval[1])})"
    return text


def in_bytes(count: float) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
