"""A figure in words."""

from __future__ import annotations

from quantpress.report.facts.data import Figure, Ratio

NONE = "not measured"


def interval(figure: Figure | None, form: str = "{:.3f}") -> str:
    """A figure and its 95% interval."""
    if figure is None or figure.value is None:
        return "none" if figure else NONE
    text = form.format(figure.value)
    if figure.interval:
        text += f" ({form.format(figure.interval[0])} to {form.format(figure.interval[1])})"
    return text


def times(ratio: Ratio) -> str:
    """A ratio with its 95% interval where there is one, and what it was measured in."""
    edges = f"{ratio.interval[0]:.2f} to {ratio.interval[1]:.2f}, " if ratio.interval else ""
    return f"{ratio.value:.2f} ({edges}{measured_in(ratio)})"


def measured_in(ratio: Ratio) -> str:
    """So many pairs, and starts of the servers if there were several."""
    pairs = f"{ratio.pairs} pair{'s' * (ratio.pairs != 1)}"
    return f"{pairs}, {ratio.starts} starts" if ratio.starts > 1 else pairs


def in_bytes(count: float) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
